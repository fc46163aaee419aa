"""Kill a forked process while it saves: after its n-th file operation, or after a delay."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable

_FILE_OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "os.listdir")


def kill_at_operation(work: Callable[[], None], operation: int) -> bool:
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

    return _exit_code(_fork(run)) == -signal.SIGKILL


def kill_after(work: Callable[[], None], seconds: float) -> None:
    """Run ``work``, which goes on for ever, in a fork, and end it by SIGKILL after some time."""
    process = _fork(work)
    time.sleep(seconds)
    process.kill()
    assert _exit_code(process) == -signal.SIGKILL, "the work ended by itself"


def _fork(work: Callable[[], None]) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def _exit_code(process: multiprocessing.process.BaseProcess) -> int | None:
    process.join()
    return process.exitcode
