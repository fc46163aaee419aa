"""What the tests of each pool amount to."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from tools.remote.timeline import lanes
from tools.remote.timeline.attempts import GREEN, Attempt


@dataclasses.dataclass(frozen=True)
class Total:
    """The attempts of one pool at one place.

    Attributes:
      place: where they ran, or whose cache had the results.
      pool: that they are for; "local" where they shared the cores of this machine.
      attempts: how many.
      failed: how many of them did not pass.
      workers: how many ran at least one; of a local run: how many ran at a time.
      busy: seconds that they kept workers busy.
      span: seconds from the first that was queued to the last that ended.
      longest_queue: seconds; None where nobody says.
      longest_queue_name: whose.
    """

    place: str
    pool: str
    attempts: int
    failed: int
    workers: int
    busy: float
    span: float
    longest_queue: float | None
    longest_queue_name: str

    @property
    def utilisation(self) -> float | None:
        """Busy seconds over the seconds that there were; None if nothing ran."""
        there_were = self.workers * self.span
        return self.busy / there_were if there_were else None


def totals(attempts: Iterable[Attempt]) -> list[Total]:
    """A total for each pool and place, in order of their first attempts."""
    groups: dict[tuple[str, str], list[Attempt]] = {}
    for attempt in attempts:
        groups.setdefault((attempt.place, attempt.shares()), []).append(attempt)
    return [_total(place, pool, group) for (place, pool), group in groups.items()]


def as_mapping(total: Total) -> Mapping[str, object]:
    """Its fields, for JSON."""
    return {**dataclasses.asdict(total), "utilisation": total.utilisation}


def _total(place: str, pool: str, group: Sequence[Attempt]) -> Total:
    queues = [(seconds, each.name) for each in group if (seconds := each.seconds("queued")) is not None]
    longest = max(queues, default=(None, ""))
    began = [phase.start for each in group for phase in each.phases if phase.name != "sent"]
    ended = [kept[1] for each in group if (kept := each.on_worker())]
    return Total(
        place=place,
        pool=pool,
        attempts=len(group),
        failed=sum(each.status not in GREEN for each in group),
        workers=len(lanes.of_workers(group)),
        busy=sum(each.busy for each in group),
        span=max(ended) - min(began) if ended else 0.0,
        longest_queue=longest[0],
        longest_queue_name=longest[1],
    )
