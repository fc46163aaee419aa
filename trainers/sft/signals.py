"""Signals that ask a training to save its state and leave."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGXCPU)
"""What schedulers and people send before they take a machine away."""

STOPPED = 75
"""Exit status of a training that a signal has stopped and that has saved its state (EX_TEMPFAIL: try again later)."""


def heeded() -> list[signal.Signals]:
    """Return `SIGNALS` without those that this process was started to ignore, as nohup does with HUP."""
    return [each for each in SIGNALS if signal.getsignal(each) is not signal.SIG_IGN]


class StopRequest:
    """The signal that has come, if any.

    Attributes:
        name: its name, such as ``SIGTERM``; None so far.
    """

    name: str | None = None


@contextmanager
def caught() -> Iterator[StopRequest]:
    """Note signals instead of ending; the second time, the same signal ends the process as it always does."""
    request = StopRequest()
    former: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        request.name = signal.Signals(number).name
        signal.signal(number, former[number])

    for each in heeded():
        former[each] = signal.signal(each, note)
    try:
        yield request
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
