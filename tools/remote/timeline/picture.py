"""The timeline as a picture: a row for each worker, and for each pool one of what waited."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tools.remote.timeline import lanes
from tools.remote.timeline.attempts import BUSY, GREEN, Attempt

_COLORS = {"queued": "#dbb244", "staged": "#6e9bc5", "ran": "#1b9e77", "uploaded": "#4e4a8c"}
_FAILED = "#c0392b"
_BAR = 0.78
_WIDTH = 12.0
_ROW = 0.42
# Of a bar's width, at this size of letters.
_LETTERS_PER_INCH = 15.0


def draw(attempts: Sequence[Attempt], path: Path) -> None:
    """Draws what ran.

    Args:
      attempts: of one invocation.
      path: the file; its suffix chooses the format.

    Raises:
      ValueError: nothing ran, or matplotlib does not know the format.
    """
    ran = [each for each in attempts if each.on_worker()]
    if not ran:
        raise ValueError(
            f"nothing to draw: all {len(attempts)} results are from caches; run with --nocache_test_results"
        )
    zero = min(phase.start for each in ran for phase in each.phases if phase.name in _COLORS)
    span = max(each.end for each in ran) - zero
    rows: list[tuple[str, list[Attempt]]] = []
    for pool in dict.fromkeys(map(Attempt.shares, ran)):
        of_pool = [each for each in ran if each.shares() == pool]
        if any(each.seconds("queued") for each in of_pool):
            rows.append((f"{pool}: queued", of_pool))
        rows += lanes.of_workers(of_pool).items()
    figure = Figure(figsize=(_WIDTH, 1.4 + _ROW * len(rows)), layout="constrained")
    ax = figure.subplots()
    letters = _LETTERS_PER_INCH * (_WIDTH - 1.5) / span
    for place, (name, of_row) in enumerate(rows):
        if name.endswith(": queued"):
            _draw_queue(ax, place, of_row, zero)
        else:
            for each in of_row:
                _draw_attempt(ax, place, each, zero, letters)
    ax.set_yticks(range(len(rows)), [name for name, _ in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlim(0, span * 1.01)
    ax.set_xlabel("seconds")
    ax.grid(axis="x", color="#e4e6e9", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.set_title(_title(attempts, len(ran)), loc="left", fontsize=9.5)
    handles = [Patch(color=color, label=name) for name, color in _COLORS.items()]
    if any(each.status not in GREEN for each in ran):
        handles.append(Patch(facecolor="white", edgecolor=_FAILED, label="failed"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.savefig(path, dpi=110)


def _title(attempts: Sequence[Attempt], ran: int) -> str:
    cached = sum(each.cached for each in attempts)
    return f"{ran} attempts that ran" + (f", {cached} results from caches" if cached else "")


def _queue(attempt: Attempt) -> lanes.Interval | None:
    phase = next((phase for phase in attempt.phases if phase.name == "queued" and phase.seconds), None)
    return (phase.start, phase.end) if phase else None


def _draw_queue(ax: Axes, place: int, attempts: Sequence[Attempt], zero: float) -> None:
    """What waits at a time is drawn side by side: the more it is, the thinner."""
    packed = lanes.pack(attempts, _queue)
    height = _BAR / len(packed)
    for i, lane in enumerate(packed):
        waits = [interval for each in lane if (interval := _queue(each))]
        bars = [(begin - zero, end - begin) for begin, end in waits]
        ax.broken_barh(bars, (place - _BAR / 2 + i * height, height * 0.9), color=_COLORS["queued"], linewidth=0)
    ax.annotate(
        f"up to {len(packed)}", (1, place), (4, 0), ("axes fraction", "data"), "offset points", va="center", fontsize=8
    )


def _draw_attempt(ax: Axes, place: int, attempt: Attempt, zero: float, letters: float) -> None:
    for phase in attempt.phases:
        if phase.name in BUSY:
            ax.barh(place, phase.seconds, left=phase.start - zero, height=_BAR, color=_COLORS[phase.name])
    kept = attempt.on_worker()
    assert kept
    begin, end = kept
    color = _FAILED if attempt.status not in GREEN else "white"
    ax.barh(place, end - begin, left=begin - zero, height=_BAR, fill=False, edgecolor=color, linewidth=1.4)
    room = int((end - begin) * letters)
    text = attempt.name.rpartition(":")[2]
    if room >= 4:
        text = text if len(text) <= room else text[: room - 1] + "…"
        ax.text(
            (begin + end) / 2 - zero, place, text, ha="center", va="center", color="white", fontsize=7, clip_on=True
        )
