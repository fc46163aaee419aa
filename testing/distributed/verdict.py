"""What a launch means as a whole: the ranks' return values, or one exception that tells of every rank."""

from __future__ import annotations

import pickle
import signal
from collections.abc import Sequence
from typing import Any

import pytest
from _pytest.outcomes import Failed  # pytest.fail.Exception, by a name that type checkers know

from testing.distributed.outcome import Outcome, RankReport
from testing.distributed.state import RankState


class RanksFailed(Failed):
    """Some rank did not pass. The message shows each rank's traceback or stack.

    If the ranks that raised all raised one type of exception, this is of that type as well, so that ``pytest.raises``
    and ``xfail(raises=...)`` see it.
    """

    __module__ = "builtins"  # so that pytest's summary starts with the message and not with this module's name


def judge(states: Sequence[RankState]) -> list[Any]:
    """Return what the ranks returned, in order of rank.

    Raises:
        RanksFailed: a rank failed, died or hung, or the ranks disagree on whether to skip.
        pytest.skip.Exception: all ranks skipped.
        pytest.xfail.Exception: all ranks called ``pytest.xfail``.
    """
    outcomes = [_outcome(state) for state in states]
    kinds = {outcome.kind for outcome in outcomes}
    if kinds == {"passed"}:
        return [pickle.loads(outcome.value) for outcome in outcomes]
    reasons = "; ".join(dict.fromkeys(outcome.text for outcome in outcomes))
    if kinds == {"skipped"}:
        pytest.skip(reasons)
    if kinds == {"xfailed"}:
        pytest.xfail(reasons)
    raise _class_for(states)(_message(states, outcomes), pytrace=False)


def replay_subtests(states: Sequence[RankState], subtests: pytest.Subtests) -> None:
    """Report the ranks' subtests through pytest's fixture; what several ranks call the same becomes one subtest."""
    blocks: dict[str, dict[int, Any]] = {}
    for rank, state in enumerate(states):
        times: dict[str, int] = {}
        for block in state.report.subtests if state.report is not None else []:
            name = repr((block.msg, block.kwargs))
            times[name] = times.get(name, 0) + 1
            blocks.setdefault(f"{name} {times[name]}", {})[rank] = block
    # A rank may leave out a subtest, as it may leave out an assert.
    left_out = Outcome("passed", value=pickle.dumps(None))
    for by_rank in blocks.values():
        first = next(iter(by_rank.values()))
        with subtests.test(first.msg, **first.kwargs):
            outcomes = [by_rank[rank].outcome if rank in by_rank else left_out for rank in range(len(states))]
            judge([RankState(report=RankReport(outcome)) for outcome in outcomes])


def _tells(state: RankState) -> bool:
    """Whether the rank's own report is the last word on it."""
    return state.report is not None and (state.report.outcome.kind != "passed" or state.passed)


def _outcome(state: RankState) -> Outcome:
    if _tells(state):
        assert state.report is not None
        return state.report.outcome
    return Outcome("failed", state.stack)


def _title(state: RankState) -> str:
    """Say in a few words how a rank ended."""
    if _tells(state):
        assert state.report is not None
        return state.report.outcome.kind
    if state.stopped:
        return f"{state.stopped}, {state.where}"
    if state.lost:
        return "was lost: the supervisor of the ranks died"
    assert state.code is not None
    when = "before" if state.report is None else "after"
    if state.code < 0:
        return f"was killed by {signal.Signals(-state.code).name} {when} its test was done"
    return f"ended its process with exit code {state.code} {when} its test was done"


def _message(states: Sequence[RankState], outcomes: Sequence[Outcome]) -> str:
    failed = [rank for rank, outcome in enumerate(outcomes) if outcome.kind != "passed"]
    late = sum(bool(states[rank].stopped) for rank in failed)
    counts = {"failed": len(failed) - late, "did not end": late}
    lines = [", ".join(f"{count} of {len(outcomes)} ranks {what}" for what, count in counts.items() if count)]
    for kind in ("skipped", "xfailed"):
        ranks = [rank for rank, outcome in enumerate(outcomes) if outcome.kind == kind]
        if ranks:
            lines = [f"{_names(ranks)} {kind} and not all did: the ranks of a test must agree on that"]
    sections: dict[tuple[str, str], list[int]] = {}
    for rank in sorted(failed, key=lambda rank: _distance(states[rank])):
        sections.setdefault((_title(states[rank]), outcomes[rank].text), []).append(rank)
    for (title, text), ranks in sections.items():
        lines += ["", f"--- {_names(ranks)}: {title}", text]
    return "\n".join(lines).rstrip()


def _distance(state: RankState) -> int:
    """How far a rank is from the cause, most likely: who died, who raised (often for that reason), who waited."""
    return 0 if state.died else 2 if state.stopped else 1


def _names(ranks: Sequence[int]) -> str:
    return ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(map(str, ranks))


def _class_for(states: Sequence[RankState]) -> type[RanksFailed]:
    """``RanksFailed``, or a class that is also the one that all ranks raised."""
    raised = {state.report.outcome.error for state in states if state.report is not None and not state.passed}
    if len(raised) != 1 or any(state.died for state in states) or raised == {b""}:
        return RanksFailed
    error = pickle.loads(raised.pop())
    if issubclass(RanksFailed, error) or not issubclass(error, Exception) or issubclass(error, pytest.exit.Exception):
        return RanksFailed
    try:
        return type(
            f"{error.__name__} on ranks",
            (RanksFailed, error),
            {"__init__": _set_message, "__str__": RanksFailed.__str__, "__module__": "builtins"},
        )
    except TypeError:  # their memory layouts do not combine
        return RanksFailed


def _set_message(error: RanksFailed, msg: str, pytrace: bool) -> None:
    """Initialise what pytest asks for; the other class may want arguments that only the rank had."""
    BaseException.__init__(error, msg)
    error.msg, error.pytrace = msg, pytrace
