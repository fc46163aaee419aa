"""The life of one rank: set up, join the process group, run, report, wait for the others, leave."""

from __future__ import annotations

import _thread
import faulthandler
import io
import os
import pickle
import random
import signal
import sys
import threading
import warnings
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from testing.distributed.call import Call
from testing.distributed.channel import Channel
from testing.distributed.collectives import last_collective, record_collectives
from testing.distributed.context import join, leave, neuron_environment
from testing.distributed.outcome import RankReport, observe
from testing.distributed.processes import die_with_parent
from testing.distributed.reference import ModuleRef

# Makes a rank write its Python stacks.
STACK_SIGNAL = signal.SIGQUIT

# Sent to a rank: which collective is it in; everybody is done.
WHERE = "where"
FINISH = "finish"


@dataclass(frozen=True)
class Where:
    """A rank's answer to ``WHERE``."""

    collective: str | None


@dataclass(frozen=True)
class Launch:
    """What all ranks of one launch share.

    Attributes:
        home: the module of the work.
        world_size: number of ranks.
        hardware: ``cpu``, ``gpu`` or ``trainium``.
        seed: of Python's, numpy's and torch's generators, the same on every rank.
        collective_timeout: seconds after which a collective gives up on its own.
        cwd: working directory.
        path: ``sys.path``.
        env: environment variables.
        filters: ``warnings.filters``.
        root_port: a free port of the loopback interface for the Neuron runtime; 0 on other hardware.
    """

    home: ModuleRef
    world_size: int
    hardware: str
    seed: int
    collective_timeout: float
    cwd: str
    path: list[str]
    env: dict[str, str]
    filters: list[tuple[Any, ...]]
    root_port: int


def run_rank(launch: Launch, rank: int, channel: Channel, files: RankFiles) -> NoReturn:
    """Be rank ``rank`` of ``launch`` in this process, which ends here."""
    os.setpgid(0, 0)
    die_with_parent(files.supervisor, signal.SIGKILL)
    # torch's thread pool does not survive a fork and is replaced at its next use. Two threads that use it first at the
    # same time, as autograd's threads for two devices do, find none ("Invalid thread pool!"): here is one thread.
    torch.set_num_threads(1)
    _redirect(files)
    _adopt_environment(launch, rank)
    finished = threading.Event()
    sending = threading.Lock()
    _thread.start_new_thread(_answer, (channel, sending, finished))
    report = _perform(launch, rank, files)
    sys.stdout.flush()
    sys.stderr.flush()
    with sending:
        channel.send(report)
    # Leaving now would break the connections on which other ranks may still wait.
    finished.wait()
    leave()
    os._exit(0)


@dataclass(frozen=True)
class RankFiles:
    """Open files of a rank.

    Attributes:
        supervisor: process id of the rank's parent.
        call: holds the pickled ``Call``.
        store: the file of the ``FileStore``.
        output: takes standard output and error.
        stacks: takes the stacks that faulthandler writes.
    """

    supervisor: int
    call: int
    store: int
    output: int
    stacks: int


def _perform(launch: Launch, rank: int, files: RankFiles) -> RankReport:
    reports: list[RankReport] = []

    def work() -> None:
        store = f"/proc/self/fd/{files.store}"
        context = join(launch.hardware, rank, launch.world_size, store, launch.collective_timeout)
        _seed(launch.seed)
        launch.home.load()  # if it was not imported before the fork
        call: Call = pickle.loads(os.pread(files.call, os.fstat(files.call).st_size, 0))
        reports.append(call.run(context))

    outcome = observe(work)
    return reports[0] if reports else RankReport(outcome)


def _redirect(files: RankFiles) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(files.output, 1)
    os.dup2(files.output, 2)
    os.close(null)
    for stream in (sys.stdout, sys.stderr):
        assert isinstance(stream, io.TextIOWrapper)
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
    faulthandler.enable(files.stacks)
    faulthandler.register(STACK_SIGNAL, files.stacks)


def _adopt_environment(launch: Launch, rank: int) -> None:
    os.chdir(launch.cwd)
    sys.path[:] = launch.path
    os.environ.clear()
    os.environ.update(launch.env)
    # As torchrun does for the ranks of one host.
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(launch.world_size),
        "LOCAL_WORLD_SIZE": str(launch.world_size),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
    }
    if launch.hardware == "trainium":
        os.environ |= neuron_environment(rank, launch.world_size, launch.root_port, os.environ)
    record_collectives()
    warnings.resetwarnings()
    warnings.filters[:] = launch.filters  # type: ignore[index]


def _seed(seed: int) -> None:
    random.seed(seed)
    torch.manual_seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)


def _answer(channel: Channel, sending: threading.Lock, finished: threading.Event) -> None:
    """Answer the launcher while the main thread works, which may be stuck inside a collective."""
    while True:
        try:
            message, _ = channel.receive()
        except EOFError:  # nobody is left to report to
            os._exit(1)
        if message == FINISH:
            finished.set()
        else:
            with sending:
                channel.send(Where(last_collective()))
