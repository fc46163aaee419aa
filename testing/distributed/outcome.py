"""How one rank's part of a launch ended."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from unittest import SkipTest

import pytest

from testing.distributed.reference import pack

Kind = Literal["passed", "skipped", "xfailed", "failed"]
_HARNESS = Path(__file__).parent


@dataclass(frozen=True)
class Outcome:
    """What a rank, or one of its subtests, reports.

    Attributes:
        kind: how it ended.
        text: reason of a skip or an expected failure, formatted traceback of a failure.
        value: pickled return value if it passed.
        error: pickled class of the exception if it failed and the class can be pickled.
    """

    kind: Kind
    text: str = ""
    value: bytes = b""
    error: bytes = b""


@dataclass(frozen=True)
class SubtestOutcome:
    """One ``with subtests.test(msg, **kwargs)`` block of a rank."""

    msg: str | None
    kwargs: dict[str, Any]
    outcome: Outcome


@dataclass(frozen=True)
class RankReport:
    """Everything that a rank sends when its function has ended."""

    outcome: Outcome
    subtests: list[SubtestOutcome] = field(default_factory=list)


def observe(fn: Callable[[], Any]) -> Outcome:
    """Call ``fn`` and return how that ended; every exception ends here."""
    try:
        value = fn()
    except BaseException as error:
        return _of_exception(error)
    try:
        return Outcome("passed", value=pack(value))
    except Exception as error:
        return Outcome(
            "failed",
            f"the returned {type(value).__name__} cannot be sent to the test ({type(error).__name__}: {error}); "
            "return tensors, numbers, strings and containers of these",
        )


def _of_exception(error: BaseException) -> Outcome:
    if isinstance(error, (pytest.skip.Exception, SkipTest)):
        return Outcome("skipped", str(error))
    if isinstance(error, pytest.xfail.Exception):
        return Outcome("xfailed", str(error))
    if isinstance(error, pytest.fail.Exception) and not error.pytrace:
        return Outcome("failed", str(error), error=_pack_class(error))
    error.__traceback__ = _without_harness(error.__traceback__)
    shown = pytest.ExceptionInfo.from_exception(error).getrepr(style="short", showlocals=False)
    return Outcome("failed", f"{shown}", error=_pack_class(error))


def _without_harness(traceback: TracebackType | None) -> TracebackType | None:
    """Drop the leading frames, which are this package's."""
    inner = traceback
    while inner is not None and _is_harness(Path(inner.tb_frame.f_code.co_filename)):
        inner = inner.tb_next
    return inner or traceback


def _is_harness(source: Path) -> bool:
    return source.parent == _HARNESS and not source.name.endswith("_test.py")


def _pack_class(error: BaseException) -> bytes:
    try:
        packed = pack(type(error))
        pickle.loads(packed)
    except Exception:
        return b""
    return packed
