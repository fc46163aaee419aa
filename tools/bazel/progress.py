"""Progress and errors of the set-up: one line per step on standard error."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator


class SetupError(Exception):
    """The set-up cannot go on; the message names the value, the place and the mend."""


def say(line: str) -> None:
    """Prints one line for the person who waits."""
    print(f"bazelw: {line}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    """Announces a step of the set-up and, when it is done, how many seconds it took."""
    say(f"{title} ...")
    begin = time.monotonic()
    yield
    say(f"{title}: {time.monotonic() - begin:.1f} s")
