"""The process above the ranks of one launch: forks them, says how each ended, leaves none behind."""

from __future__ import annotations

import os
import selectors
import signal
import traceback
from dataclasses import dataclass
from typing import NoReturn

from testing.distributed.channel import Channel
from testing.distributed.processes import adopt_orphans, die_with_parent, kill_descendants
from testing.distributed.rank import STACK_SIGNAL, Launch, RankFiles, run_rank

# Orders from the launcher; it closes the connection to have everything killed.
DUMP_STACKS = "dump stacks"


@dataclass(frozen=True)
class Started:
    """All ranks run; their process ids in order of rank."""

    pids: list[int]


@dataclass(frozen=True)
class Ended:
    """One rank's process is gone; ``code`` is its exit code, or minus the signal that killed it."""

    rank: int
    code: int


def supervise(parent: int, control: Channel) -> NoReturn:
    """Run one launch in this process, a fresh fork of the server, which ends here.

    Over ``control`` come a ``Launch`` with the open files of the call and the store, then for each rank its own
    connection to the launcher and its files for output and stacks.
    """
    try:
        _supervise(parent, control)
    except EOFError:
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        kill_descendants()
        os._exit(0)


def _supervise(parent: int, control: Channel) -> None:
    adopt_orphans()
    signals = _signal_pipe()
    die_with_parent(parent, signal.SIGTERM)
    launch, (call, store) = control.receive()
    running: dict[int, int] = {}
    for rank in range(launch.world_size):
        _, (connection, output, stacks) = control.receive()
        pid = os.fork()
        if pid == 0:
            control.close()
            os.close(signals)
            _be_rank(launch, rank, connection, RankFiles(os.getppid(), call, store, output, stacks))
        for fd in (connection, output, stacks):
            os.close(fd)
        running[pid] = rank
    control.send(Started(list(running)))
    with selectors.DefaultSelector() as selector:
        selector.register(signals, selectors.EVENT_READ)
        selector.register(control, selectors.EVENT_READ)
        while running:
            for key, _ in selector.select():
                if key.fileobj is control:
                    for order in control.pending():
                        assert order == DUMP_STACKS
                        for pid in running:
                            os.kill(pid, STACK_SIGNAL)
                elif signal.SIGTERM in os.read(signals, 4096):
                    return
            for ended in _reap(running):
                control.send(ended)


def _be_rank(launch: Launch, rank: int, connection: int, files: RankFiles) -> NoReturn:
    signal.set_wakeup_fd(-1)
    for signum in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(signum, signal.SIG_DFL)
    try:
        run_rank(launch, rank, Channel.from_fd(connection), files)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _signal_pipe() -> int:
    """Return a pipe's end from which the numbers of arriving SIGCHLD and SIGTERM can be read, one byte each."""
    ours, theirs = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
    for signum in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(signum, lambda *_: None)
    return ours


def _reap(running: dict[int, int]) -> list[Ended]:
    ended: list[Ended] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        if pid in running:  # others are adopted
            ended.append(Ended(running.pop(pid), os.waitstatus_to_exitcode(status)))
