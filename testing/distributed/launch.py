"""Run one function on several ranks, each a process of its own inside an initialised process group."""

from __future__ import annotations

import os
import socket
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from testing.distributed.call import Call, PlainCall
from testing.distributed.client import supervisor
from testing.distributed.context import hardware_of
from testing.distributed.deadline import deadline
from testing.distributed.rank import Launch
from testing.distributed.reference import Ref, pack_named
from testing.distributed.state import RankState
from testing.distributed.verdict import judge
from testing.distributed.watch import Ranks

DEFAULT_TIMEOUT = 60.0
DEFAULT_SEED = 0


def launch_procs(
    fn: Callable[..., Any],
    world_size: int,
    *args: Any,
    timeout: float = DEFAULT_TIMEOUT,
    device: str | None = None,
    seed: int = DEFAULT_SEED,
) -> list[Any]:
    """Call ``fn(*args)`` on ``world_size`` ranks and return what each returned, in order of rank.

    Args:
        fn: a function at the top level of a module.
        world_size: number of ranks; each accelerator carries one.
        *args: anything that can be pickled.
        timeout: seconds for all ranks together, from their start to the report.
        device: ``cpu``, ``cuda`` or ``xla``; by default that of the test's hardware.
        seed: of Python's, numpy's and torch's generators, the same on every rank.

    Raises:
        RanksFailed: a rank failed, died or did not end in time; it tells of every rank.
        ValueError: an argument is not usable; it says which and why.
    """
    call = PlainCall(Ref.of(fn), pack_named({f"argument {i}": arg for i, arg in enumerate(args)}))
    hardware = None if device is None else hardware_of(device)
    return judge(run_call(call, world_size, timeout=timeout, hardware=hardware, seed=seed))


def run_call(
    call: Call, world_size: int, *, timeout: float, hardware: str | None = None, seed: int = DEFAULT_SEED
) -> Sequence[RankState]:
    """Run a call on ranks to its end, show what they printed, and return how each fared.

    Args:
        call: what every rank does.
        world_size: number of ranks.
        timeout: seconds from their start to the report.
        hardware: ``cpu``, ``gpu`` or ``trainium``; by default that of the test.
        seed: of the random generators.
    """
    hardware = hardware or os.environ.get("TRAINYARD_HARDWARE", "cpu")
    _check_world_size(world_size, hardware)
    deadline(timeout)  # refuses before anything starts
    launch = Launch(
        home=call.home,
        world_size=world_size,
        hardware=hardware,
        seed=seed,
        # Later than the launcher's own limit, which ends with a better report.
        collective_timeout=timeout + 60,
        cwd=os.getcwd(),
        path=list(sys.path),
        env=dict(os.environ),
        filters=list(warnings.filters),
        root_port=_free_port() if hardware == "trainium" else 0,
    )
    # A module that touches an accelerator when it is imported would spoil it for the ranks forked afterwards.
    control = supervisor(call.home if hardware == "cpu" else None)
    with Ranks(control, launch, call) as ranks:
        limit = deadline(timeout)
        ranks.watch(limit.at, limit.why)
    _print_output(ranks.states)
    return ranks.states


def _free_port() -> int:
    """Return a port of this host that is free now; the Neuron runtime takes a number, not an open socket."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _check_world_size(world_size: int, hardware: str) -> None:
    if world_size < 1:
        raise ValueError(f"world_size is {world_size}; a launch has 1 rank or more")
    devices = os.environ.get("TRAINYARD_DEVICES")
    if hardware != "cpu" and devices is not None and world_size > int(devices):
        raise ValueError(
            f"world_size is {world_size}, and this test runs with {devices} {hardware} devices (TRAINYARD_DEVICES): "
            "raise `devices` in its trainer_test declaration"
        )


def _print_output(states: Sequence[RankState]) -> None:
    """Pass on what the ranks printed; pytest captures it with the test's own output."""
    for rank, state in enumerate(states):
        for line in state.output.splitlines():
            print(f"[rank {rank}] {line}")
