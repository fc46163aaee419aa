"""The ``subtests`` fixture on ranks: blocks are recorded there and reported by pytest's own fixture afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from testing.distributed.outcome import SubtestOutcome, observe

# These end a block; anything else (SystemExit, KeyboardInterrupt) ends the test.
_ENDS_BLOCK = (Exception, pytest.fail.Exception, pytest.skip.Exception, pytest.xfail.Exception)

# Arguments of a block that travel as they are; of others, tensors say, only how they are shown.
_PLAIN = (bool, int, float, str, type(None), torch.dtype)


class RankSubtests:
    """Stands in for pytest's ``subtests`` fixture inside a rank."""

    def __init__(self) -> None:
        """Start with no block recorded."""
        self.outcomes: list[SubtestOutcome] = []

    @contextmanager
    def test(self, msg: str | None = None, **kwargs: Any) -> Iterator[None]:
        """Run the block; record a failure in it and go on after it, as pytest's ``subtests.test`` does."""
        caught: BaseException | None = None
        try:
            yield
        except _ENDS_BLOCK as error:
            caught = error
        shown = {name: value if isinstance(value, _PLAIN) else repr(value) for name, value in kwargs.items()}
        self.outcomes.append(SubtestOutcome(msg, shown, observe(lambda: _raise(caught))))


def _raise(error: BaseException | None) -> None:
    if error is not None:
        raise error
