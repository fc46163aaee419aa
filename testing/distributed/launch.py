"""Run one function on several ranks, each a process of its own inside an initialised process group."""

from __future__ import annotations

import os
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

DEFAULT_TIMEOUT = 60.0


def device_of_hardware() -> str:
    """Return the device type that the test environment asks for: ``cpu``, ``cuda`` or ``xla``."""
    return {"cpu": "cpu", "gpu": "cuda", "trainium": "xla"}[os.environ.get("TRAINYARD_HARDWARE", "cpu")]


def _rank_main(fn: Callable[..., Any], args: tuple[Any, ...], rank: int, world_size: int, store: str, pipe: Any) -> None:
    try:
        torch.set_num_threads(1)
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        dist.init_process_group("gloo", store=dist.FileStore(store, world_size), rank=rank, world_size=world_size)
        torch.manual_seed(0)
        pipe.send((True, fn(*args)))
        dist.destroy_process_group()
    except BaseException:
        pipe.send((False, traceback.format_exc()))
        os._exit(1)
    os._exit(0)


def launch_procs(
    fn: Callable[..., Any], world_size: int, *args: Any, timeout: float = DEFAULT_TIMEOUT, device: str | None = None
) -> list[Any]:
    """Call ``fn(*args)`` on ``world_size`` ranks and return what each returned, in order of rank."""
    ctx = mp.get_context("fork")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        pipes, procs = [], []
        for rank in range(world_size):
            ours, theirs = ctx.Pipe()
            proc = ctx.Process(target=_rank_main, args=(fn, args, rank, world_size, f"{folder}/store", theirs))
            proc.start()
            theirs.close()
            pipes.append(ours)
            procs.append(proc)
        try:
            failures = []
            for rank, pipe in enumerate(pipes):
                if not pipe.poll(timeout):
                    raise TimeoutError(f"rank {rank} did not answer within {timeout} s")
                ok, value = pipe.recv()
                (results if ok else failures).append(value if ok else f"rank {rank}:\n{value}")
            if failures:
                raise AssertionError("\n".join(failures))
        finally:
            for proc in procs:
                proc.kill()
                proc.join()
    return results
