"""Runs the participants side by side, and holds what they answer against what is known of the workspace."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Sequence

from tools.affected.bench import servers
from tools.affected.bench.big_workspace import CHANGES, Workspace
from tools.affected.bench.participants import Participant

SERVERS = ("warm", "cold")
BASES = ("cached", "new")
_OF_EACH_SORT = ("a leaf library", "BUILD: a test")


class WrongAnswerError(RuntimeError):
    """A participant missed a test, or ours named one too many: its time means nothing."""


@dataclasses.dataclass(frozen=True)
class Case:
    """What is asked.

    Attributes:
      server: `warm`, or `cold`: each run starts one.
      base: `cached`: a run before has seen it; or `new`.
      change: one of CHANGES.
    """

    server: str
    base: str
    change: str


@dataclasses.dataclass(frozen=True)
class Row:
    """What one participant took for a case.

    Attributes:
      participant: its name.
      case: what was asked.
      seconds: wall time of each run.
      expected: number of tests that the change affects.
      found: number of tests that it named, of the last run; None if it does not compare.
    """

    participant: str
    case: Case
    seconds: tuple[float, ...]
    expected: int
    found: int | None

    @property
    def median(self) -> float:
        """Median of the seconds."""
        return statistics.median(self.seconds)


class Turns:
    """Makes states that nobody has seen and times participants on them."""

    def __init__(self, workspace: Workspace, exact: Sequence[str]) -> None:
        """See the class.

        Args:
          workspace: what the participants have clones of.
          exact: names of participants that must find the affected tests and no other.
        """
        self._workspace = workspace
        self._exact = exact
        self._turn = itertools.count(1)

    def run(self, participant: Participant, case: Case) -> tuple[float, int | None]:
        """One run: seconds and the number of tests named.

        Raises:
          WrongAnswerError: see there.
        """
        turn = next(self._turn)
        edits, expected = self._workspace.edit(case.change, turn)
        if case.base == "new":
            participant.new_base(turn)
        participant.head(edits)
        if case.server == "cold":
            servers.end(participant.folder)
        begin = time.perf_counter()
        found = participant.run()
        seconds = time.perf_counter() - begin
        if found is not None:
            check(participant.name, case, expected, found, exact=participant.name in self._exact)
        return seconds, None if found is None else len(found)

    def rows(self, participants: Sequence[Participant], case: Case, runs: int, step: Callable[[], None]) -> list[Row]:
        """`runs` rounds; in each every participant has a run, the order being turned by one from round to round.

        Raises:
          WrongAnswerError: see there.
        """
        seconds: dict[str, list[float]] = {each.name: [] for each in participants}
        found: dict[str, int | None] = {}
        for k in range(runs):
            first = k % len(participants)
            for each in (*participants[first:], *participants[:first]):
                taken, found[each.name] = self.run(each, case)
                seconds[each.name].append(taken)
                step()
        expected = len(self._workspace.edit(case.change, 0)[1])
        return [Row(each.name, case, tuple(seconds[each.name]), expected, found[each.name]) for each in participants]


def check(name: str, case: Case, expected: frozenset[str], found: frozenset[str], *, exact: bool) -> None:
    """Compares an answer with what is known.

    Raises:
      WrongAnswerError: a test is missing, or (`exact`) there is one too many.
    """
    missing, extra = sorted(expected - found), sorted(found - expected) if exact else []
    if missing or extra:
        raise WrongAnswerError(
            f"{name}, {case}: {len(expected)} tests are affected; {len(missing)} of them are missing {missing[:3]}, "
            f"{len(extra)} are too many {extra[:3]}"
        )


def cases(server: str) -> list[Case]:
    """The cases with such a server, those with a cached base first.

    Every change is tried where that is usual: warm and cached. A cold server costs the same whatever changed, but a
    change of sources needs none; a new base costs the same, too.
    """
    usual = [Case(server, "cached", change) for change in (CHANGES if server == "warm" else _OF_EACH_SORT)]
    return [*usual, Case(server, "new", _OF_EACH_SORT[0])]


def taking_part(participants: Sequence[Participant], case: Case) -> list[Participant]:
    """Those for whom a case differs from others: a base matters only to those that compare."""
    return [
        each
        for each in participants
        if (each.compares or case.base == "cached") and (each.measured_cold or case.server == "warm")
    ]
