"""Recall and precision of a run, by theme and by kind of change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from tools.affected.truth.harness import Result
from tools.affected.truth.kinds import Kind

PAIR = "two at a time"
ALL = "all"


@dataclasses.dataclass
class Score:
    """How often the selector was right.

    Attributes:
      tried: cases.
      wrong: cases with a fault.
      truth: tests that had to run.
      found: those of them that it named.
      named: tests that it named.
      telling: cases in which some test had to run, or Bazel ended with an error.
    """

    tried: int = 0
    wrong: int = 0
    truth: int = 0
    found: int = 0
    named: int = 0
    telling: int = 0

    def add(self, result: Result) -> None:
        """Counts a case."""
        self.tried += 1
        self.wrong += bool(result.faults)
        truth, answer = result.truth or frozenset(), result.answer or frozenset()
        self.truth += len(truth)
        self.found += len(truth & answer)
        self.named += len(answer)
        self.telling += result.truth is None or bool(truth)

    @property
    def recall(self) -> float:
        """Share of the tests that had to run which it named."""
        return self.found / self.truth if self.truth else 1.0

    @property
    def precision(self) -> float:
        """Share of the tests that it named which had to run."""
        return self.found / self.named if self.named else 1.0


def scores(results: Iterable[Result], by: Callable[[Kind], str] = lambda kind: kind.name) -> dict[str, Score]:
    """The scores of each kind, of pairs, and of all, which comes last.

    Args:
      results: of the cases.
      by: what a kind is counted under.
    """
    found: dict[str, Score] = {}
    total = Score()
    for result in results:
        name = PAIR if len(result.kinds) > 1 else by(result.kinds[0])
        found.setdefault(name, Score()).add(result)
        total.add(result)
    pairs = {PAIR: found.pop(PAIR)} if PAIR in found else {}
    return {**found, **pairs, ALL: total}


def themes(results: Iterable[Result]) -> dict[str, Score]:
    """The scores of each theme, of pairs, and of all."""
    return scores(results, lambda kind: kind.theme)


def table(found: Mapping[str, Score]) -> Table:
    """Scores as people read them."""
    table = Table("changes", "tried", "right", "tests that had to run", "named", "recall", "precision")
    for theme, score in found.items():
        if theme == ALL:
            table.add_section()
        counts = [score.tried, score.tried - score.wrong, score.truth, score.named]
        figures = [*counts, f"{score.recall:.1%}", f"{score.precision:.1%}"]
        table.add_row(theme, *map(str, figures), style="red" if score.wrong else None)
    return table


def as_json(results: Sequence[Result], seed: int) -> dict[str, Any]:
    """The scores, and the details of each case."""
    return {
        "seed": seed,
        "scores": {
            name: {**dataclasses.asdict(score), "recall": score.recall, "precision": score.precision}
            for name, score in {**scores(results), **themes(results)}.items()
        },
        "cases": [
            {
                "case": result.case,
                "kinds": [kind.name for kind in result.kinds],
                "truth": "error" if result.truth is None else sorted(result.truth),
                "answer": "error" if result.answer is None else sorted(result.answer),
                "faults": result.faults,
                "table": result.table,
                "diff": result.diff if result.faults else "",
            }
            for result in results
        ],
    }
