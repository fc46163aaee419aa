"""Kill a forked process while it saves: at its n-th file operation, or some time into a save."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator

_FORK = multiprocessing.get_context("fork")
_FILE_OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "os.listdir")


def kill_at_operation(work: Callable[[], object], operation: int) -> bool:
    """Run ``work`` in a fork that ends by SIGKILL at the start of a file operation (from 0); False if it did fewer."""

    def run() -> None:
        left = operation

        def count(event: str, _: object) -> None:
            nonlocal left
            if event in _FILE_OPERATIONS:
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1

        sys.addaudithook(count)
        work()

    process = _FORK.Process(target=run)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def kill_in_a_save(saves: Callable[[], Iterator[object]], fraction: float) -> int:
    """Iterate over ``saves()``, which saves once per item, in a fork, and kill it some time after the first.

    Args:
        saves: goes on for ever.
        fraction: how long after, as a multiple of the time that the first save took.

    Returns:
        How many saves were done for certain; the next one may be.
    """
    receiver, sender = _FORK.Pipe(duplex=False)

    def run() -> None:
        sender.send("begins")
        for _ in saves():
            sender.send("saved")

    process = _FORK.Process(target=run)
    process.start()
    sender.close()
    receiver.recv()
    began = time.monotonic()
    receiver.recv()
    time.sleep(fraction * (time.monotonic() - began))
    process.kill()
    process.join()
    done = 1
    while receiver.poll():
        try:
            receiver.recv()
        except EOFError:
            break
        done += 1
    return done
