"""The one place that knows which process-group backend and which torch device go with which hardware."""

import torch

_BACKENDS = {"cpu": "gloo", "cuda": "nccl", "xla": "xla"}
_DEVICE_TYPES = {"cpu": "cpu", "gpu": "cuda", "trainium": "xla"}


def backend_for(device_type: str) -> str:
    """Name of the ``torch.distributed`` backend whose collectives take tensors of ``device_type``.

    Args:
        device_type: ``torch.device.type``: ``"cpu"``, ``"cuda"`` or ``"xla"``.

    Raises:
        ValueError: no backend is known for this device type.
    """
    if device_type not in _BACKENDS:
        raise ValueError(f"no process-group backend for device type {device_type!r}; use one of {sorted(_BACKENDS)}")
    return _BACKENDS[device_type]


def hardware_device(hardware: str, local_rank: int) -> torch.device:
    """The device on which a process with this rank on its host computes.

    Args:
        hardware: ``"cpu"``, ``"gpu"`` or ``"trainium"``: the names that test declarations use.
        local_rank: rank of the process among those of its host, from 0.

    Raises:
        ValueError: unknown hardware, or a negative rank.
    """
    if hardware not in _DEVICE_TYPES:
        raise ValueError(f"unknown hardware {hardware!r}; use one of {sorted(_DEVICE_TYPES)}")
    if local_rank < 0:
        raise ValueError(f"local_rank must be 0 or more, got {local_rank}")
    device_type = _DEVICE_TYPES[hardware]
    if device_type == "cuda":
        return torch.device("cuda", local_rank)
    # CPU ranks share one device. The XLA runtime gives each process its own core, which that process numbers 0.
    return torch.device(device_type, 0) if device_type == "xla" else torch.device(device_type)
