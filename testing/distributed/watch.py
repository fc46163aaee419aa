"""The ranks of one launch as pytest's process sees them: started, watched, questioned when they hang, ended."""

from __future__ import annotations

import contextlib
import os
import pickle
import selectors
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

from testing.distributed.call import Call
from testing.distributed.channel import Channel
from testing.distributed.processes import state_of
from testing.distributed.rank import FINISH, WHERE, Launch, Where
from testing.distributed.stacks import collective_of, read_threads, show
from testing.distributed.state import RankState
from testing.distributed.supervisor import DUMP_STACKS, Ended, Started

# Once a rank has failed the others have this many seconds; most of them wait for it in a collective.
GRACE = 3.0
# Seconds for ranks that are done to destroy their process groups, and for their supervisor to clean up.
_LEAVE = 10.0
_MOST_OUTPUT = 1 << 16


class _Wires:
    """Connection and files of one rank, on this side."""

    def __init__(self, rank: int) -> None:
        self.channel, self.theirs = Channel.pair()
        self.output = os.memfd_create(f"output-{rank}")
        self.stacks = os.memfd_create(f"stacks-{rank}")
        self.answer: Where | None = None

    def close(self) -> None:
        self.channel.close()
        os.close(self.output)
        os.close(self.stacks)


class Ranks:
    """A running launch. A context manager: leaving it ends every process of the launch.

    Attributes:
        states: what is known of each rank.
    """

    def __init__(self, control: Channel, launch: Launch, call: Call) -> None:
        """Have the supervisor at the other end of ``control`` fork the ranks, which run ``call``."""
        self.states = [RankState() for _ in range(launch.world_size)]
        self._control = control
        self._pids: list[int] = []
        self._wires: list[_Wires] = []
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)
        shared = [os.memfd_create("call"), os.memfd_create("store")]
        with open(shared[0], "wb", closefd=False) as file:
            pickle.dump(call, file)
        with contextlib.suppress(EOFError):  # a dead supervisor is noticed in watch()
            control.send(launch, shared)
        for fd in shared:
            os.close(fd)
        for rank in range(launch.world_size):
            wires = _Wires(rank)
            self._wires.append(wires)
            self._selector.register(wires.channel, selectors.EVENT_READ, rank)
            with contextlib.suppress(EOFError):
                control.send(rank, [wires.theirs.fileno(), wires.output, wires.stacks])
            wires.theirs.close()

    def __enter__(self) -> Ranks:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Kill what is left and wait until it is gone."""
        self._control.finish_sending()
        until = time.monotonic() + _LEAVE
        while self._control in self._selector.get_map() and time.monotonic() < until:
            self._step(until)
        self._selector.close()
        self._control.close()
        for wires in self._wires:
            wires.close()

    def watch(self, until: float, why: str) -> None:
        """Wait until every rank's function has ended and the ranks have left.

        Ranks that are not done at ``until`` (``time.monotonic``), or ``GRACE`` seconds after another one did not pass,
        are questioned and marked as stopped; ``why`` explains ``until``.
        """
        limit = until
        while not all(state.settled for state in self.states) and time.monotonic() < limit:
            self._step(limit)
            if any(state.settled and not state.passed for state in self.states):
                limit = min(limit, time.monotonic() + GRACE) if limit == until else limit
        late = [rank for rank, state in enumerate(self.states) if not state.settled]
        if late:
            self._question(late, f"still ran {GRACE:.0f} s after another rank had ended" if limit < until else why)
        elif all(state.passed for state in self.states):
            self._let_leave(until)
        for rank, wires in enumerate(self._wires):
            self._read_files(rank, wires)

    def _let_leave(self, until: float) -> None:
        self._send(range(len(self.states)), FINISH)
        limit = min(until, time.monotonic() + _LEAVE)
        while any(state.code is None for state in self.states) and time.monotonic() < limit:
            self._step(limit)
        late = [rank for rank, state in enumerate(self.states) if state.code is None]
        if late:
            self._question(late, "did not get out of destroy_process_group")

    def _question(self, late: list[int], why: str) -> None:
        """Ask ranks for their stacks and collectives, and mark them as stopped."""
        self._send(late, WHERE)
        with contextlib.suppress(EOFError):
            self._control.send(DUMP_STACKS)
        until = time.monotonic() + 1.0
        sizes: list[int] = []
        while time.monotonic() < until:
            self._step(time.monotonic() + 0.05)
            before, sizes = sizes, [os.fstat(self._wires[rank].stacks).st_size for rank in late]
            if all(sizes) and sizes == before and all(self._wires[rank].answer for rank in late):
                break
        for rank in late:
            self.states[rank].stopped = why

    def _send(self, ranks: Iterable[int], message: str) -> None:
        for rank in ranks:
            with contextlib.suppress(EOFError):
                self._wires[rank].channel.send(message)

    def _step(self, until: float) -> None:
        """Take in whatever arrives first, if anything does before ``until``."""
        for key, _ in self._selector.select(max(0.0, until - time.monotonic())):
            if key.data is None:
                self._take(self._control, self._hear_supervisor, self._lose_supervisor)
            else:
                self._hear_rank(key.data)

    def _take(self, channel: Channel, hear: Callable[[Any], None], lose: Callable[[], None]) -> None:
        if channel not in self._selector.get_map():
            return
        try:
            for message in channel.pending():
                hear(message)
        except EOFError:
            self._selector.unregister(channel)
            lose()

    def _hear_supervisor(self, message: Started | Ended) -> None:
        if isinstance(message, Started):
            self._pids = message.pids
        else:
            self._hear_rank(message.rank)  # what it sent before it ended
            self.states[message.rank].code = message.code

    def _lose_supervisor(self) -> None:
        for state in self.states:
            if not state.settled and not state.stopped:
                state.lost = True

    def _hear_rank(self, rank: int) -> None:
        def hear(message: Any) -> None:
            if isinstance(message, Where):
                self._wires[rank].answer = message
            else:
                self.states[rank].report = message

        self._take(self._wires[rank].channel, hear, lambda: None)

    def _read_files(self, rank: int, wires: _Wires) -> None:
        """Fill in what the rank's files and answers say."""
        state = self.states[rank]
        size = os.fstat(wires.output).st_size
        cut = max(0, size - _MOST_OUTPUT)
        state.output = os.pread(wires.output, _MOST_OUTPUT, cut).decode(errors="replace")
        if cut:
            state.output = f"({cut} bytes before this are left out)\n{state.output}"
        threads = read_threads(os.pread(wires.stacks, os.fstat(wires.stacks).st_size, 0).decode(errors="replace"))
        state.stack = show(threads)
        if state.stopped:
            state.where = _where(collective_of(threads[0]) if threads else None, wires.answer)
            if not threads:
                what = state_of(self._pids[rank]) if self._pids else "not started"
                state.stack = f"  (it wrote no stack; its process is {what})"


def _where(name: str | None, answer: Where | None) -> str:
    issued = answer.collective if answer is not None else None
    if name is None:
        return f"in no collective (the last one issued: {issued})" if issued else "in no collective"
    if issued is None or issued.startswith(f"{name}("):
        return f"in {issued or name}"
    return f"in {name}: {issued}"
