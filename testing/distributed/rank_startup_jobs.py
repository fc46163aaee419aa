"""The work of the start-up benchmark: ranks up, one all-reduce, down."""

import torch
import torch.distributed as dist

from testing.distributed.launch import launch_procs


def all_reduce() -> float:
    """Add ones over all ranks."""
    x = torch.ones(1)
    dist.all_reduce(x)
    return x.item()


def launch(world_size: int) -> None:
    """Start ranks with our launcher."""
    assert launch_procs(all_reduce, world_size, timeout=120) == [world_size] * world_size


def be_rank(rank: int, world_size: int, store: str) -> None:
    """Be a rank that somebody else has started."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, world_size), rank=rank, world_size=world_size)
    assert all_reduce() == world_size
    dist.destroy_process_group()
