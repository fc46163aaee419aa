"""Load a folder of safetensors straight into a sharded model: each rank reads its slices, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from trainers.checkpoint.listing import listing
from trainers.checkpoint.module_state import all_tensors
from trainers.checkpoint.transformers_format import INDEX_FILE, SINGLE_FILE


def load_safetensors(model: nn.Module, folder: Path) -> None:
    """Load weights in place, cast to the dtypes of the model.

    No collective: ranks need not be in step.

    Args:
        model: plain or FSDP2, with memory for its weights.
        folder: with ``model.safetensors``, or shards and their index.

    Raises:
        ValueError: the folder has no weights; a file is damaged, by name; weights are missing, unexpected or of another
            shape, by name; or the model is on the meta device.
    """
    tensors = all_tensors(model)
    if meta := [name for name, tensor in tensors.items() if tensor.is_meta]:
        raise ValueError(f"{listing(meta)} are on the meta device: give the model memory before weights are loaded")
    with ExitStack() as files:
        slices = _open(Path(folder), files)
        sources = _match(tensors, slices, folder)
        with torch.no_grad():
            for name, source in sources.items():
                _copy(tensors[name], slices[source])


def _open(folder: Path, files: ExitStack) -> dict[str, Any]:
    """Return a lazy slice for each tensor in the folder, by name."""
    names = [SINGLE_FILE]
    if (folder / INDEX_FILE).exists():
        with _named(folder / INDEX_FILE):
            names = sorted(set(json.loads((folder / INDEX_FILE).read_bytes())["weight_map"].values()))
    slices: dict[str, Any] = {}
    for name in names:
        if not (folder / name).exists():
            raise ValueError(f"{folder} lacks {name}: it is no folder of safetensors weights, or not a complete one")
        with _named(folder / name):
            file = files.enter_context(safe_open(folder / name, framework="pt"))
            slices |= {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    return slices


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the file in what its reader complains of."""
    try:
        yield
    except (ValueError, KeyError, SafetensorError) as error:
        raise ValueError(f"{path} is damaged, copy it again: {error!r}") from error


def _match(tensors: dict[str, torch.Tensor], slices: dict[str, Any], folder: Path) -> dict[str, str]:
    """Return, for one name of each tensor, the name under which it is in the files: any alias of a tied one will do."""
    aliases: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        aliases.setdefault(id(tensor), []).append(name)
    sources = {names[0]: next((name for name in names if name in slices), None) for names in aliases.values()}
    problems = []
    if missing := [name for name, source in sources.items() if source is None]:
        problems.append(f"it lacks {listing(missing)}")
    if unexpected := sorted(slices.keys() - tensors.keys()):
        problems.append(f"the model lacks {listing(unexpected)}")
    if misshaped := [
        f"{name} {tuple(slices[source].get_shape())}, in the model {tuple(tensors[name].shape)}"
        for name, source in sources.items()
        if source is not None and tuple(slices[source].get_shape()) != tuple(tensors[name].shape)
    ]:
        problems.append(f"shapes differ: {listing(misshaped)}")
    if problems:
        raise ValueError(f"{folder} is of another model: {'; '.join(problems)}")
    return {name: source for name, source in sources.items() if source is not None}


def _copy(tensor: torch.Tensor, source: Any) -> None:
    tensor = tensor.detach()
    if isinstance(tensor, DTensor):
        shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
        tensor, ranges = tensor.to_local(), tuple(slice(o, o + s) for o, s in zip(offset, shape, strict=True))
    else:
        ranges = (slice(None),) * tensor.ndim
    if tensor.numel():
        tensor.copy_(source[ranges or ...])
