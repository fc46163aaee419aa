"""Starts the ranks of a training on this machine, unless torchrun has."""

import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import ParamSpec

from trainers.sft.signals import STOPPED, heeded

P = ParamSpec("P")

_GRACE_SECONDS = 10.0
"""How long the other ranks may take to notice by themselves that one has failed."""


def launched() -> bool:
    """Whether this process is a rank already: torchrun and the like say so in the environment."""
    return "RANK" in os.environ


def launch(count: int, run: Callable[P, int], *args: P.args, **kwargs: P.kwargs) -> int:
    """Run a function on each of ``count`` ranks and return the largest of their exit statuses.

    One rank runs in this process. Several are processes of their own, joined over loopback; signals that ask a training
    to stop are passed on to them. If a rank fails, the others are ended; if this process dies, all are.

    Args:
        count: ranks.
        run: importable by its name; what it returns is the exit status.
        args: its arguments.
        kwargs: its named arguments.

    Returns:
        The status; of a rank that a signal has killed, 128 and the signal's number, as shells have it.
    """
    port = _free_port()
    if count == 1:
        _as_rank(0, 1, port)
        return run(*args, **kwargs)
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=_rank, args=(rank, count, port, run, args, kwargs)) for rank in range(count)]

    def forward(number: int, frame: FrameType | None) -> None:
        for rank in ranks:
            if rank.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(rank.pid, number)

    former = {number: signal.signal(number, forward) for number in heeded()}
    try:
        for rank in ranks:
            rank.start()
        return _join(ranks)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _join(ranks: Sequence[BaseProcess]) -> int:
    """Wait for all ranks, or for the first that fails, and end the others then; return the largest status."""
    # Each turn acts on one reading of the statuses: a rank that failed between two would be missed, and the last wait
    # be for ranks that do not end.
    while None in (codes := [rank.exitcode for rank in ranks]):
        running = [rank for rank, code in zip(ranks, codes, strict=True) if code is None]
        if any(code not in (None, 0, STOPPED) for code in codes):
            for rank in running:
                rank.join(_GRACE_SECONDS)
                rank.kill()
        else:
            wait([rank.sentinel for rank in running])
    statuses = [code for code in codes if code is not None]
    return max(status if status >= 0 else 128 - status for status in statuses)


def _rank(
    rank: int, count: int, port: int, run: Callable[..., int], args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    os.setpgrp()  # (a terminal's Ctrl-C reaches the launcher, which passes it on: once, not twice)
    threading.Thread(target=_end_with_launcher, daemon=True).start()
    _as_rank(rank, count, port)
    sys.exit(run(*args, **kwargs))


def _end_with_launcher() -> None:
    launcher = multiprocessing.parent_process()
    assert launcher is not None
    launcher.join()
    os._exit(1)


def _as_rank(rank: int, count: int, port: int) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
