"""Load a folder of safetensors straight into a sharded model: each rank reads its slices, and nothing else."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from transformers import PreTrainedModel

from trainers.checkpoint.module_state import all_tensors, plain_model
from trainers.checkpoint.tensor_files import listing
from trainers.checkpoint.transformers_format import INDEX_FILE, SINGLE_FILE


def load_safetensors(model: nn.Module, folder: Path, device: torch.device | None = None) -> None:
    """Load weights in place, cast to the dtypes of the model; a model on the meta device is given memory first.

    No collective: ranks need not be in step.

    Args:
        model: plain or FSDP2. One on the meta device is made without memory (``with torch.device("meta")``), and
            wrapped before this call.
        folder: with ``model.safetensors``, or shards and their index.
        device: where a model on the meta device goes.

    Raises:
        ValueError: the folder has no weights; they are missing, unexpected or of another shape, by name; or the model
            has buffers on the meta device that no file holds.
    """
    tensors = all_tensors(model)
    with ExitStack() as files:
        slices = _open(Path(folder), files)
        sources = _match(tensors, slices, folder)
        if any(tensor.is_meta for tensor in tensors.values()):
            if device is None:
                raise ValueError("the model is on the meta device: say with device= where its weights shall be")
            _give_memory(plain_model(model), device)
            tensors = all_tensors(model)
        with torch.no_grad():
            for name, source in sources.items():
                _copy(tensors[name], slices[source])


def _open(folder: Path, files: ExitStack) -> dict[str, Any]:
    """Return a lazy slice for each tensor in the folder, by name."""
    if (folder / INDEX_FILE).exists():
        names = sorted(set(json.loads((folder / INDEX_FILE).read_text())["weight_map"].values()))
    else:
        names = [SINGLE_FILE]
    slices: dict[str, Any] = {}
    for name in names:
        if not (folder / name).exists():
            raise ValueError(f"{folder} lacks {name}: it is no folder of safetensors weights, or not a complete one")
        file = files.enter_context(safe_open(folder / name, framework="pt"))
        slices |= {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    return slices


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


def _give_memory(model: nn.Module, device: torch.device) -> None:
    """Move a model off the meta device, and compute the buffers that are in no file, such as rotary frequencies."""
    persistent = all_tensors(model).keys()
    computed = [name for name, _ in model.named_buffers() if name not in persistent]
    if computed and not isinstance(model, PreTrainedModel):
        raise ValueError(f"buffers {listing(computed)} are in no file: make the model with them off the meta device")
    model.to_empty(device=device)
    if not isinstance(model, PreTrainedModel):
        return
    model.tie_weights()  # to_empty makes two of each
    # transformers computes what is not marked as initialized.
    for tensor in all_tensors(model).values():
        tensor._is_hf_initialized = True  # type: ignore[attr-defined]
    for name in computed:
        model.get_submodule(name.rpartition(".")[0])._is_hf_initialized = False  # type: ignore[assignment]
    model.initialize_weights()  # type: ignore[no-untyped-call]


def _copy(tensor: torch.Tensor, source: Any) -> None:
    tensor = tensor.detach()
    if isinstance(tensor, DTensor):
        shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
        tensor, ranges = tensor.to_local(), tuple(slice(o, o + s) for o, s in zip(offset, shape, strict=True))
    else:
        ranges = (slice(None),) * tensor.ndim
    if tensor.numel():
        tensor.copy_(source[ranges or ...])
