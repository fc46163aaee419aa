"""The tensors that a model is made of, under the names that they have in the plain model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def plain_model(model: nn.Module) -> nn.Module:
    """Return the model inside DistributedDataParallel and ``torch.compile``."""
    inner = model.module if isinstance(model, DistributedDataParallel) else getattr(model, "_orig_mod", None)
    return model if inner is None else plain_model(inner)


def all_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return parameters and persistent buffers by name: the model's own objects, a tied one under each of its names.

    With FSDP2 they are sharded (``DTensor``), also if a forward pass has left parameters gathered.

    Raises:
        ValueError: a module keeps something else in its state, which no format here could hold.
    """
    state = plain_model(model).state_dict(keep_vars=True)
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(
                f"{name} in the model's state is a {type(value).__name__}, and a checkpoint holds tensors: make it a "
                "buffer, or keep it in progress"
            )
    return {name.replace("_orig_mod.", ""): value for name, value in state.items()}


def without_aliases(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return each tensor once, under the first of its names: tied weights are one tensor."""
    first: dict[int, str] = {}
    for name, tensor in tensors.items():
        first.setdefault(id(tensor), name)
    return {name: tensors[name] for name in first.values()}
