"""Starts the ranks of a training on this machine, unless torchrun has."""

import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import ParamSpec

from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from trainers.sft.signals import SIGNALS

P = ParamSpec("P")


def launched() -> bool:
    """Whether this process is a rank already: torchrun and the like say so in the environment."""
    return "RANK" in os.environ


def launch(count: int, run: Callable[P, int], *args: P.args, **kwargs: P.kwargs) -> int:
    """Run a function on each of ``count`` ranks and return the largest of their exit statuses.

    One rank runs in this process. Several are processes of their own, joined over loopback; signals that ask a training
    to stop are passed on to them. If a rank dies, the others are ended.

    Args:
        count: ranks.
        run: importable by its name; what it returns is the exit status.
        args: its arguments.
        kwargs: its named arguments.
    """
    port = _free_port()
    if count == 1:
        _as_rank(0, 1, port)
        return run(*args, **kwargs)
    context = start_processes(_rank, (count, port, run, args, kwargs), count, join=False, start_method="spawn")
    assert context is not None

    def forward(number: int, frame: FrameType | None) -> None:
        for pid in context.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    former = {number: signal.signal(number, forward) for number in SIGNALS}
    try:
        while not context.join():
            pass
    except ProcessExitedException as error:
        return error.exit_code if error.exit_code > 0 else 128 - error.exit_code
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    return 0


def _rank(
    rank: int, count: int, port: int, run: Callable[..., int], args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    _as_rank(rank, count, port)
    status = run(*args, **kwargs)
    if status:
        os._exit(status)  # (the spawner tells no status of a SystemExit from another)


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
