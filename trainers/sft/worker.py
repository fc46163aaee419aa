"""This process among the ranks of a training."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from trainers.parallel.backend import backend_for, hardware_device


@dataclass(frozen=True)
class Worker:
    """A rank.

    Attributes:
        rank: among all, from 0.
        world_size: how many there are.
        device: where this rank computes.
        mesh: of all ranks, for data parallelism.
        control: the same ranks over gloo, for decisions that the device need not know of.
    """

    rank: int
    world_size: int
    device: torch.device
    mesh: DeviceMesh
    control: dist.ProcessGroup

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank; a collective."""
        flags = torch.tensor([flag], dtype=torch.int32)
        dist.all_reduce(flags, dist.ReduceOp.MAX, self.control)
        return bool(flags)


@contextmanager
def joined(device: str) -> Iterator[Worker]:
    """Join the process group that the environment names, as torchrun sets it, and leave it at the end.

    Args:
        device: ``auto``, ``cpu`` or ``gpu``; ``auto`` takes GPUs where there are some.

    Raises:
        ValueError: if there is no GPU for this rank.
    """
    local_rank = int(os.environ["LOCAL_RANK"])
    hardware = hardware_of(device)
    here = hardware_device(hardware, local_rank)
    if here.type == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise ValueError(f"local rank {local_rank} has no GPU of its own: there are {torch.cuda.device_count()}")
        torch.cuda.set_device(here)
    dist.init_process_group(backends_for(here.type), device_id=here if here.type == "cuda" else None)
    try:
        world_size = dist.get_world_size()
        mesh = init_device_mesh(here.type, (world_size,), mesh_dim_names=("dp",))
        yield Worker(dist.get_rank(), world_size, here, mesh, dist.new_group(backend="gloo"))
    finally:
        dist.destroy_process_group()


def backends_for(device_type: str) -> str:
    """Backends of a training's process group: a GPU's ranks also send what is offloaded to their CPUs."""
    backend = backend_for(device_type)
    return backend if device_type == "cpu" else f"cpu:{backend_for('cpu')},{device_type}:{backend}"


def hardware_of(device: str) -> str:
    """``gpu`` or ``cpu``: what the option ``device`` means on this machine."""
    if device == "auto":
        return "gpu" if torch.cuda.is_available() else "cpu"
    return device
