"""Reads a causal language model from a folder, and brings it to ranks that hold shards of it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from trainers.checkpoint.listing import listing
from trainers.models.model_folder import has_weights

_MISFITS = {
    "missing_keys": "they lack",
    "unexpected_keys": "the model lacks",  # (without those that its architecture declares to be of no use)
    "mismatched_keys": "shapes differ:",
}


def read_model(folder: Path, seed: int = 0) -> PreTrainedModel:
    """Read a model's weights, in fp32, to the CPU; draw them where the folder has none.

    Args:
        folder: with ``config.json`` and, as a rule, safetensors.
        seed: of the weights of a folder without.

    Raises:
        ValueError: if the folder has no configuration of a causal language model, or its weights do not fit it or
            cannot be read.
    """
    config = _config(folder)
    if not has_weights(folder):
        torch.manual_seed(seed)
        return _made(config)
    try:
        # (with the last argument it returns two values, which its annotation does not know)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True
        )
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{folder}: the weights cannot be read: {error}; the folder is damaged") from error
    model, found = loaded
    # (transformers would draw what is missing or misshaped and drop the rest, and only warn)
    if problems := [
        f"{what} {listing(sorted(map(str, found[kind])))}" for kind, what in _MISFITS.items() if found[kind]
    ]:
        raise ValueError(
            f"{folder}: the weights do not fit config.json: {'; '.join(problems)}; give the config.json that they were "
            "saved with, or copy the folder again: it is damaged, or mixes two models"
        )
    read: PreTrainedModel = model
    return read


def empty_model(folder: Path) -> PreTrainedModel:
    """Make the model of a folder with its parameters, fp32, on the meta device and its buffers on the CPU.

    Raises:
        ValueError: as `read_model`.
    """
    config = _config(folder)
    with _parameters_on_meta():
        model = _made(config)
    model.tie_weights()
    return model


def materialise(model: nn.Module, device: torch.device) -> None:
    """Give parameters on the meta device memory, not values; buffers stay as they are, tied weights stay tied.

    Args:
        model: of `empty_model`, also with what was put around it or inserted since: adapters, factors, FSDP2 (which
            has moved buffers to where it computes).
        device: where parameters go.

    Raises:
        ValueError: if a buffer is on the meta device too, so that nobody knows its values.
    """
    buffers = dict(model.named_buffers(remove_duplicate=False))
    if lost := [name for name, buffer in buffers.items() if buffer.is_meta]:
        raise ValueError(f"buffers {', '.join(lost)} are on the meta device, without values: make it by empty_model")
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    model.to_empty(device=device)  # (makes two of a parameter that is tied)
    tied = {name: model.get_parameter(first) for first, *others in names.values() for name in others}
    for name, tensor in (tied | buffers).items():
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, tensor)


def whole_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return what a model's folder has of it: parameters, a tied one once, and persistent buffers, by name."""
    state = model.state_dict(keep_vars=True)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return parameters | {name: state[name] for name, _ in model.named_buffers() if name in state}


def distribute_from_rank0(model: nn.Module, weights: Mapping[str, Tensor], mesh: DeviceMesh) -> None:
    """Copy rank 0's whole weights into the shards of every rank, tensor by tensor; a collective.

    Args:
        model: sharded over the mesh, with memory.
        weights: rank 0's `whole_tensors`; of the others' the shapes and dtypes alone count.
        mesh: one dimension; its rank 0 is this process group's.
    """
    device = torch.device(mesh.device_type)  # (collectives need it, and an offloaded shard is not on it)
    state = model.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, whole in weights.items():
            whole = torch.empty(whole.shape, dtype=whole.dtype, device=device) if whole.is_meta else whole.to(device)
            tensor = state[name]
            if isinstance(tensor, DTensor):
                tensor.to_local().copy_(distribute_tensor(whole, mesh, tensor.placements).to_local())
            else:
                dist.broadcast(whole, group=mesh.get_group(), group_src=0)
                tensor.copy_(whole)


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            parameter = nn.Parameter(parameter.to("meta"), parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def _made(config: PreTrainedConfig) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    return model


def _config(folder: Path) -> PreTrainedConfig:
    if not (folder / "config.json").is_file():
        raise ValueError(f"model {folder}: no config.json in it; give the folder of a transformers model")
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder)
    except (ValueError, OSError) as error:
        raise ValueError(f"model {folder}: config.json cannot be read: {error}") from error
    return config
