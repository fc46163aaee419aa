"""The table and the picture of what a repo's own commits would have cost."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tools.affected.bench.speed_report import markdown

_ALL, _SELECTED, _FLAGGED = "#dfe3e7", "#1b9e77", "#d98c5f"


@dataclasses.dataclass(frozen=True)
class Commit:
    """The selection from a commit's parent.

    Attributes:
      commit: its short id.
      subject: first line of its message.
      selected: number of tests selected.
      tests: number of all tests; where the commit does not load, of the last one that did.
      seconds: what the selection took.
      flagged: why every test was taken; "" if the answer is exact.
    """

    commit: str
    subject: str
    selected: int
    tests: int
    seconds: float
    flagged: str = ""


def saved(commits: Sequence[Commit]) -> float:
    """Share of the test runs, had every commit run every test, that selection leaves out."""
    every = sum(each.tests for each in commits)
    return 1 - sum(each.selected for each in commits) / every if every else 0.0


def table(commits: Sequence[Commit]) -> str:
    """A row per commit, oldest first, and the sums, as markdown."""
    lines = [
        [
            f"`{each.commit}`",
            each.subject.replace("|", "\\|"),
            f"{each.selected:,}",
            f"{each.tests:,}",
            f"everything: {each.flagged}" if each.flagged else "",
        ]
        for each in commits
    ]
    selected, tests = sum(each.selected for each in commits), sum(each.tests for each in commits)
    lines.append(["all", f"{saved(commits):.1%} saved", f"{selected:,}", f"{tests:,}", ""])
    return markdown(["commit", "", "selected", "of tests", "flagged"], lines)


def to_json(commits: Sequence[Commit]) -> str:
    """All numbers."""
    content = {"saved": saved(commits), "commits": [dataclasses.asdict(each) for each in commits]}
    return json.dumps(content, indent=1) + "\n"


def draw(commits: Sequence[Commit], path: Path) -> None:
    """Draws for every commit the tests selected in front of all tests.

    Args:
      commits: oldest first.
      path: the file; its suffix chooses the format.
    """
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    ax = figure.subplots()
    places = range(1, len(commits) + 1)
    ax.bar(places, [each.tests for each in commits], width=1, color=_ALL)
    colors = [_FLAGGED if each.flagged else _SELECTED for each in commits]
    ax.bar(places, [each.selected for each in commits], width=0.8, color=colors)
    ax.set_xlim(0.5, len(commits) + 0.5)
    ax.set_xlabel("commit, oldest first")
    ax.set_ylabel("test targets")
    ax.set_title(
        f"{len(commits)} commits, each from its parent: {saved(commits):.1%} of the test runs saved",
        loc="left",
        fontsize=11,
    )
    handles = [Patch(color=_ALL, label="all tests"), Patch(color=_SELECTED, label="selected")]
    if any(each.flagged for each in commits):
        handles.append(Patch(color=_FLAGGED, label="everything, flagged (a side does not load)"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
