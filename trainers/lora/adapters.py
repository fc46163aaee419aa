"""Low-rank adapters (LoRA, arXiv 2106.09685) on the projections of a transformers model, by peft."""

import warnings
from collections.abc import Iterator, Sequence

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from trainers.lora.quantization import dense_state
from trainers.optim.projections import find_projections
from trainers.optim.state_names import state_name


def add_lora(
    model: PreTrainedModel,
    *,
    rank: int = 16,
    alpha: int = 32,
    dropout: float = 0.0,
    target_modules: Sequence[str] | None = None,
    seed: int = 0,
) -> PeftModel:
    """Freeze the model and add ``W + alpha / rank * B A`` to the matched weights; before ``fully_shard``.

    A (rank, in) is drawn from ``seed`` and B (out, rank) is zero: every rank makes the same adapters without a
    message, and the model computes at first what it did. The generators of the caller are left as they were. FSDP2
    shards frozen and trained parameters of a block side by side.

    Args:
        model: changed in place; its layers become parts of the result.
        rank: of the adapters, >= 1.
        alpha: scale, >= 1.
        dropout: of the adapters' inputs, in [0, 1).
        target_modules: ends of names of linear layers; default the projections of attention and MLP.
        seed: of A.

    Raises:
        ValueError: a number out of range, nothing is matched, or something that adapters cannot be merged into.
    """
    if rank < 1 or alpha < 1 or not 0 <= dropout < 1:
        raise ValueError(f"LoRA needs rank >= 1, alpha >= 1 and dropout in [0, 1), got {rank=}, {alpha=}, {dropout=}")
    layers = find_projections(model, target_modules)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(layers),
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in layers.values()),
    )
    devices = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    with torch.random.fork_rng(devices=list(devices)), warnings.catch_warnings():
        # peft asks for a property by the name that transformers has given up, and we cannot ask for it otherwise.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        torch.manual_seed(seed)
        adapted: PeftModel = get_peft_model(model, config)
    _adapted_layers(adapted.get_base_model())  # (refuses now what could not be merged at the end)
    return adapted


def merged_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The state dict of the model as it was before :func:`add_lora`, with each adapter added to its weight.

    Sums are taken in the higher of the two precisions and have the dtype of the weight; a weight in four bits counts as
    what is computed with, in fp32. One at a time, and the model stays as it is: write each before you ask for the next,
    or call ``dict`` on it. With FSDP2 the tensors are DTensors and every rank must ask for all of them.

    Raises:
        ValueError: an adapted layer is no plain linear one, so that nothing can be added to its weight.
    """
    assert isinstance(model, PeftModel)
    base = model.get_base_model()
    adapted = _adapted_layers(base)
    for key, tensor in dense_state(base):
        if ".lora_" in key:
            continue
        module_name, _, leaf = key.rpartition(".")
        name = module_name.removesuffix(".base_layer")
        if leaf == "weight" and name in adapted:
            tensor = (tensor + _update(adapted[name])).to(tensor.dtype)
        yield f"{name}.{leaf}", tensor


def _adapted_layers(base: nn.Module) -> dict[str, LoraLinear]:
    layers = {}
    for name, module in base.named_modules():
        if isinstance(module, LoraLinear):
            layers[state_name(name)] = module
        elif isinstance(module, LoraLayer):
            raise ValueError(
                f"{name} is no plain linear layer but {type(module).__name__} (stacked experts, or quantised by "
                "transformers), into which adapters cannot be merged: give target modules that leave it out, such as "
                "q_proj, k_proj, v_proj and o_proj"
            )
    return layers


@torch.no_grad()
def _update(layer: LoraLinear) -> Tensor:
    """``alpha / rank * B A`` in the layout of the weight."""
    (adapter,) = layer.active_adapters
    return layer.get_delta_weight(adapter)
