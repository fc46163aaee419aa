"""What a rank knows about itself, and how its process group comes up and goes down."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from trainers.parallel.backend import backend_for, hardware_device

# Order of mesh dimensions, outermost first: rank = ((pp * DP + dp) * CP + cp) * TP + tp.
MESH_ORDER = ("pp", "dp", "cp", "tp")


@dataclass(frozen=True)
class RankContext:
    """One rank of a running test."""

    rank: int
    world_size: int
    device: torch.device


def hardware_of(device: str) -> str:
    """Return the hardware (``cpu``, ``gpu``, ``trainium``) whose ranks compute on a device type (``cpu``, ...)."""
    names = {hardware_device(hardware, 0).type: hardware for hardware in ("cpu", "gpu", "trainium")}
    if device not in names:
        raise ValueError(f"device is {device!r}; use one of {sorted(names)}, or None for what the test runs on")
    return names[device]


def check_mesh(sizes: Mapping[str, int]) -> None:
    """Raise ``ValueError`` unless ``sizes`` names known mesh dimensions, each with a positive size."""
    for name, size in sizes.items():
        if name not in MESH_ORDER:
            raise ValueError(f"parallel_sizes names {name!r}; the dimensions are {', '.join(MESH_ORDER)}")
        if size < 1:
            raise ValueError(f"parallel_sizes[{name!r}] is {size}; a mesh dimension holds 1 rank or more")


def make_mesh(sizes: Mapping[str, int], device: torch.device) -> DeviceMesh:
    """Return the mesh of all ranks with the dimensions that ``sizes`` names, in ``MESH_ORDER``."""
    assert math.prod(sizes.values()) == dist.get_world_size()
    names = tuple(name for name in MESH_ORDER if name in sizes)
    return init_device_mesh(device.type, tuple(sizes[name] for name in names), mesh_dim_names=names)


def join(hardware: str, rank: int, world_size: int, store_path: str, timeout: float) -> RankContext:
    """Claim this rank's device and create the default process group.

    Args:
        hardware: ``cpu``, ``gpu`` or ``trainium``.
        rank: this process, from 0.
        world_size: number of ranks, all on this host.
        store_path: file through which the ranks find each other.
        timeout: seconds after which a collective gives up.

    Raises:
        RuntimeError: the machine has fewer devices than the world has ranks.
    """
    device = hardware_device(hardware, rank)
    if device.type == "cuda":
        _claim_cuda(device, world_size)
    if device.type == "xla":
        importlib.import_module("torch_xla.distributed.xla_backend")  # keep: only the Neuron host has it
    dist.init_process_group(
        backend_for(device.type),
        store=FileStore(store_path, world_size),
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=timeout),
        # Connects NCCL now, so that a fault of the fabric shows here and not in the first collective.
        device_id=device if device.type == "cuda" else None,
    )
    return RankContext(rank, world_size, device)


def _claim_cuda(device: torch.device, world_size: int) -> None:
    found = torch.cuda.device_count()
    if found < world_size:
        raise RuntimeError(
            f"{world_size} ranks need {world_size} CUDA devices and this process sees {found}: "
            "run on a host that has them, or look at CUDA_VISIBLE_DEVICES"
        )
    torch.cuda.set_device(device)


def neuron_environment(rank: int, world_size: int, root_port: int, env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables by which the Neuron runtime makes one core of this host the device of one rank.

    Args:
        rank: this process, from 0.
        world_size: number of ranks, all on this host.
        root_port: port on which the ranks find each other.
        env: of the test; ``NEURON_RT_VISIBLE_CORES`` there, such as ``4-7`` or ``0,2``, limits the choice.
    """
    cores = list(range(world_size))
    if env.get("NEURON_RT_VISIBLE_CORES"):
        spans = [span.partition("-") for span in env["NEURON_RT_VISIBLE_CORES"].split(",")]
        cores = [core for first, _, last in spans for core in range(int(first), int(last or first) + 1)]
    if len(cores) < world_size:
        raise RuntimeError(
            f"{world_size} ranks need {world_size} NeuronCores and NEURON_RT_VISIBLE_CORES names {len(cores)}: {cores}"
        )
    return {
        "PJRT_DEVICE": "NEURON",
        "PJRT_LOCAL_PROCESS_RANK": str(rank),
        "PJRT_LOCAL_PROCESS_COUNT": str(world_size),
        "NEURON_PJRT_PROCESS_INDEX": str(rank),
        "NEURON_PJRT_PROCESSES_NUM_DEVICES": ",".join(["1"] * world_size),
        "NEURON_RT_ROOT_COMM_ID": f"127.0.0.1:{root_port}",
        "NEURON_RT_VISIBLE_CORES": str(cores[rank]),
    }


def leave() -> None:
    """Destroy every process group of this rank, which closes its store."""
    if dist.is_initialized():
        dist.destroy_process_group()
