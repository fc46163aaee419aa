"""Frozen weights in four bits beneath adapters (QLoRA, arXiv 2305.14314), by bitsandbytes."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from trainers.optim.projections import find_projections
from trainers.optim.state_names import state_name

# Of one scale. Where it reaches over the end of a row, bitsandbytes 0.50.2 takes another block's scale on CPUs.
_BLOCK = 64


def quantize_nf4(model: PreTrainedModel, compute_dtype: torch.dtype) -> None:
    """Put the projections of attention and MLP into four bits (NF4, scales quantised too), in place and for good.

    Embeddings, norms and output layer stay as they are. Weights in four bits are not in the model's state dict: they
    follow from the model that was quantised. :func:`dense_state` has them.

    Args:
        model: with its weights; :func:`add_lora` comes after.
        compute_dtype: of the products, for each of which a weight is brought back to it.

    Raises:
        ValueError: bitsandbytes is not installed, or the model has projections that are no ``nn.Linear``, or whose
            inputs are no multiple of 64.
    """
    if not find_spec("bitsandbytes"):
        raise ValueError(
            "quantize=nf4 needs the extra package bitsandbytes, which is not installed: install it, or train LoRA "
            "without quantize"
        )
    from bitsandbytes.nn.modules import Linear4bit, Params4bit  # keep: an extra

    for name, layer in find_projections(model).items():
        if isinstance(layer, Conv1D):
            raise ValueError(
                f"{name} of {type(model).__name__} is a Conv1D, and bitsandbytes quantises nn.Linear alone"
            )
        if layer.in_features % _BLOCK:
            raise ValueError(
                f"{name} of {type(model).__name__} has {layer.in_features} inputs, no multiple of the {_BLOCK} weights "
                "that share a scale: train LoRA without quantize"
            )
        quantised: Any = Linear4bit(  # type: ignore[no-untyped-call]
            layer.in_features, layer.out_features, compute_dtype=compute_dtype, device="meta"
        )
        # (on some CPUs, evaluation would otherwise repack weights so that training cannot go on with them)
        quantised.support_avx512bf16_for_cpu = False
        weight: Any = Params4bit(layer.weight.detach(), quant_type="nf4")
        quantised.weight = weight.to(layer.weight.device)
        quantised.weight.quant_state.dtype = compute_dtype
        quantised.bias = layer.bias
        quantised.register_state_dict_post_hook(_leave_out)
        model.set_submodule(name, quantised)


def dense_state(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The state dict of a model, then the layers in four bits: a weight at a time, fp32, ``(out, in)``, and biases."""
    yield from model.state_dict().items()
    for name, module in model.named_modules():
        if is_quantised(module):
            yield f"{state_name(name)}.weight", _dequantised(module)
            if module.bias is not None:
                yield f"{state_name(name)}.bias", module.bias.detach()


def is_quantised(module: nn.Module) -> bool:
    """Whether it is a layer of :func:`quantize_nf4`."""
    return isinstance(module, nn.Linear) and hasattr(module.weight, "quant_state")


def _dequantised(layer: nn.Module) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit  # keep: an extra

    weight: Any = layer.weight
    dense: Tensor = dequantize_4bit(weight.data, weight.quant_state)
    return dense.float()


def _leave_out(module: nn.Module, state: dict[str, Any], prefix: str, _: object) -> None:
    for key in [key for key in state if key.startswith(prefix)]:
        del state[key]
