"""The state of an optimizer by parameter name, so that it can be sharded differently when it is loaded.

``torch.distributed.checkpoint.state_dict`` has this too, but takes a step with zero gradients to fill the state of an
optimizer that has none yet, which leaves AdamW's step count at 1 in a checkpoint of step 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from trainers.checkpoint.listing import listing

Small = dict[str, dict[str, Any]]
"""Of each parameter, what is not shaped like it, such as the step count."""


def optimizer_tensors(optimizer: Optimizer, names: Mapping[int, str]) -> dict[str, torch.Tensor]:
    """Return state that is shaped like its parameter, as ``KEY.PARAMETER``.

    Args:
        optimizer: whose state; every parameter has a name.
        names: of parameters, by ``id``.
    """
    return {
        f"{key}.{names[id(parameter)]}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if _is_shaped_like(value, parameter)
    }


def optimizer_rest(optimizer: Optimizer, names: Mapping[int, str]) -> dict[str, Any]:
    """Return what else there is: ``{"groups": [{"names": [...], "options": {...}}], "small": Small}``.

    Raises:
        ValueError: a parameter is not the model's; or state of a sharded parameter has a shape of its own, so that
            nobody knows how to shard it.
    """
    small: Small = {}
    groups = []
    for group in optimizer.param_groups:
        unknown = sum(id(parameter) not in names for parameter in group["params"])
        if unknown:
            raise ValueError(
                f"{unknown} of {len(group['params'])} parameters in a group of the optimizer are not in the model: "
                "make the optimizer after the model is wrapped"
            )
        options = {key: value for key, value in group.items() if key != "params"}
        groups.append({"names": [names[id(parameter)] for parameter in group["params"]], "options": options})
    for parameter, state in optimizer.state.items():
        name = names[id(parameter)]
        small[name] = {key: value for key, value in state.items() if not _is_shaped_like(value, parameter)}
        for key, value in small[name].items():
            if isinstance(parameter, DTensor) and isinstance(value, torch.Tensor) and value.numel() > 1:
                raise ValueError(
                    f"optimizer state {key!r} of {name} has shape {tuple(value.shape)}, and the sharded parameter "
                    f"{tuple(parameter.shape)}: only state of the parameter's shape, or of one element, can be saved"
                )
    return {"groups": groups, "small": small}


def new_optimizer_tensors(
    saved: Mapping[str, torch.dtype], parameters: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return empty tensors to load saved state into, sharded like the parameters.

    Args:
        saved: dtypes of the saved state, by ``KEY.PARAMETER``.
        parameters: those of the model, by name.
    """
    return {
        full_name: torch.empty_like(parameters[full_name.partition(".")[2]].detach(), dtype=dtype)
        for full_name, dtype in saved.items()
    }


def check_groups(optimizer: Optimizer, names: Mapping[int, str], rest: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` unless the optimizer's groups hold the parameters that they held when ``rest`` was saved."""
    own = [group["names"] for group in optimizer_rest(optimizer, names)["groups"]]
    saved = [group["names"] for group in rest["groups"]]
    if own != saved:
        raise ValueError(f"the optimizer's parameter groups differ: {_difference(own, saved)}; build it as it was")


def set_optimizer_state(
    optimizer: Optimizer,
    parameters: Mapping[str, torch.Tensor],
    tensors: Mapping[str, torch.Tensor],
    rest: Mapping[str, Any],
) -> None:
    """Put back what `optimizer_tensors` and `optimizer_rest` returned.

    Args:
        optimizer: whose groups have passed `check_groups`.
        parameters: those of the model, by name.
        tensors: loaded into `new_optimizer_tensors`.
        rest: of `optimizer_rest`.
    """
    optimizer.state.clear()
    for group, saved_group in zip(optimizer.param_groups, rest["groups"], strict=True):
        for key, value in saved_group["options"].items():
            if isinstance(group.get(key), torch.Tensor):
                group[key].copy_(value)  # a compiled step reads this very tensor
            else:
                group[key] = value
        for name, parameter in zip(saved_group["names"], group["params"], strict=True):
            if name in rest["small"]:
                # As Optimizer.load_state_dict does with the step count.
                device = parameter.device if group.get("capturable") or group.get("fused") else torch.device("cpu")
                optimizer.state[parameter] = {
                    key: value.to(device) if isinstance(value, torch.Tensor) else value
                    for key, value in rest["small"][name].items()
                }
    for full_name, tensor in tensors.items():
        key, _, name = full_name.partition(".")
        optimizer.state[parameters[name]][key] = tensor


def _is_shaped_like(value: Any, parameter: torch.Tensor) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape == parameter.shape


def _difference(own: list[list[str]], saved: list[list[str]]) -> str:
    if len(own) != len(saved):
        return f"it has {len(own)} and the checkpoint {len(saved)}"
    group = next(i for i in range(len(own)) if own[i] != saved[i])
    odd = sorted(set(own[group]) ^ set(saved[group]))
    return f"group {group} " + (f"does not hold the same, {listing(odd)}" if odd else "has another order")
