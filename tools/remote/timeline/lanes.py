"""Which attempts stand in one row of a timeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tools.remote.timeline.attempts import Attempt

Interval = tuple[float, float]


def pack(attempts: Iterable[Attempt], when: Callable[[Attempt], Interval | None]) -> list[list[Attempt]]:
    """As few lanes as hold the attempts side by side, none of which overlap.

    Args:
      attempts: in any order.
      when: the time that an attempt takes in its lane; without one it stands in none.
    """
    found = [(interval, attempt) for attempt in attempts if (interval := when(attempt))]
    packed: list[list[Attempt]] = []
    ends: list[float] = []
    for (begin, end), attempt in sorted(found, key=lambda each: each[0]):
        lane = next((i for i, ended in enumerate(ends) if ended <= begin), len(ends))
        if lane == len(ends):
            packed.append([])
            ends.append(end)
        packed[lane].append(attempt)
        ends[lane] = end
    return packed


def of_workers(attempts: Iterable[Attempt]) -> dict[str, list[Attempt]]:
    """What kept each worker, in order of their names.

    Where nobody names the worker, and for local tests, there are slots, as few as hold them: `cpu 1`, `local 1`.
    """
    named: dict[str, list[Attempt]] = {}
    nameless: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        if attempt.worker:
            named.setdefault(attempt.worker, []).append(attempt)
        elif attempt.phases:
            nameless.setdefault(attempt.shares(), []).append(attempt)
    slots = {
        f"{name} {i}": lane
        for name, group in nameless.items()
        for i, lane in enumerate(pack(group, Attempt.on_worker), 1)
    }
    return {name: named[name] for name in sorted(named, key=_natural)} | slots


def _natural(name: str) -> tuple[str, int, str]:
    """gpu-2 before gpu-10."""
    head = name.rstrip("0123456789")
    return head, int(name[len(head) :] or 0), name
