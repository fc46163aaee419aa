"""The loss of a causal language model, summed over the tokens that carry one.

Every kind computes the same number: the sum, over tokens t whose label counts, of the cross entropy of the prediction
after token t - 1. The caller divides by the tokens of the whole batch. `model_inputs` picks those tokens, so that
positions without loss cost the head nothing.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.loss.loss_utils import ForCausalLMLoss

from trainers.models.linear_cross_entropy import linear_cross_entropy
from trainers.models.loss_kinds import Loss

# What configurations call a bound on the logits: of Gemma and most, of RecurrentGemma, of xLSTM.
_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")


def use_loss(model: PreTrainedModel, kind: Loss) -> None:
    """Let ``model(..., labels=targets).loss`` be the summed cross entropy, computed as ``kind`` says.

    The model then takes `model_inputs`. With the kinds that fuse the head, its ``logits`` are hidden states: such a
    model is for training alone.

    Raises:
        ValueError: if the kind is unknown or not installed, the model adds another loss, or it changes its logits in a
            way that a fused head would not see.
    """
    if kind not in get_args(Loss):
        raise ValueError(f"loss {kind!r} is unknown: choose one of {', '.join(get_args(Loss))}")
    if getattr(model.config.get_text_config(), "output_router_logits", False):
        raise ValueError(
            f"{type(model).__name__} adds a loss of its routers, a mean, which would be lost beside a sum over tokens: "
            "set output_router_logits to false in its config.json"
        )
    if kind == "transformers":
        model.loss_function = _of_logits
        return
    if any(getattr(model.config.get_text_config(), name, None) for name in _CAPS):
        raise ValueError(
            f"loss={kind!r}: {type(model).__name__} caps its logits, which a fused head cannot: use loss='transformers'"
        )
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if not isinstance(head, nn.Linear):
        raise ValueError(
            f"loss={kind!r}: the head of {type(model).__name__} is no linear layer but {type(head).__name__}: use "
            "loss='transformers'"
        )
    fused = linear_cross_entropy if kind == "fused" else _liger()
    # What the model does between head and loss, such as Granite's division of the logits, is linear: it acts on the
    # hidden states as it would on the logits, without a bias at least.
    head.forward = lambda hidden: hidden  # type: ignore[method-assign, assignment]

    def loss(logits: Tensor, labels: Tensor, *_: Any, predicting: Tensor | None = None, **kwargs: Any) -> Tensor:
        return fused(_picked(logits, predicting), head.weight, labels[0], head.bias)

    model.loss_function = loss


def _of_logits(logits: Tensor, labels: Tensor, *_: Any, predicting: Tensor | None = None, **kwargs: Any) -> Tensor:
    loss: Tensor = ForCausalLMLoss(
        _picked(logits, predicting),
        None,
        logits.shape[-1],
        num_items_in_batch=torch.ones((), device=logits.device),
        shift_labels=labels,
    )
    return loss


def _picked(logits: Tensor, predicting: Tensor | None) -> Tensor:
    """Return the rows of ``[B, L, ...]`` that predict a token with loss: ``[N, ...]``, as ``logits_to_keep`` does."""
    rows = logits.flatten(0, -2)
    return rows if predicting is None else rows[predicting]


def _liger() -> Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]:
    if not find_spec("liger_kernel"):
        raise ValueError("loss='liger': the package liger-kernel is not installed; install it, or use loss='fused'")
    from liger_kernel.transformers.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyLoss  # type: ignore[import-not-found]  # keep: an extra

    kernel = LigerFusedLinearCrossEntropyLoss(reduction="sum")

    def loss(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None) -> Tensor:
        if not len(hidden):  # (a grid of no blocks is refused by the driver)
            return linear_cross_entropy(hidden, weight, targets, bias)
        value: Tensor = kernel(weight, hidden, targets, bias)
        return value

    return loss
