"""Cross entropy of a linear head without ever holding all logits.

The logits of ``[N, V]`` are made for some tokens at a time. Their gradient, softmax minus one-hot, is known as soon as
they are, so the gradients of hidden states and weight are made in the forward pass and the logits are gone before the
next ones come (the idea of Liger's fused linear cross entropy, Hsu et al. 2024, arXiv:2410.10989, section 3.2).

Legend: N tokens, H hidden size, V vocabulary.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

# Logits held at a time: 256 MB in bf16. Smaller ones make the product of matrices less efficient.
_LOGITS_AT_ONCE = 1 << 27


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None = None) -> Tensor:
    """Sum over tokens of the cross entropy of ``hidden @ weight.T + bias``.

    Differentiable once. Under autocast the products are computed in its dtype; the softmax is in fp32.

    Args:
        hidden: ``[N, H]``; N may be 0.
        weight: ``[V, H]``.
        targets: int64 ``[N]``, all of them within the vocabulary.
        bias: ``[V]``.

    Returns:
        fp32, 0-d.
    """
    if not torch.is_grad_enabled():  # (the function below would make gradients all the same)
        hidden, weight, bias = hidden.detach(), weight.detach(), None if bias is None else bias.detach()
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, targets, bias)  # type: ignore[no-untyped-call]
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None) -> Tensor:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        with torch.autocast(device, enabled=False):
            return _forward(ctx, hidden, weight, targets, bias, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, Tensor | None]:
        hidden, weight, bias = (
            None if each is None else (each * gradient).to(dtype)
            for each, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return hidden, weight, None, bias


def _forward(
    ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    for_hidden, for_weight, _, for_bias = ctx.needs_input_grad
    ctx.dtypes = (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
    head = weight.to(dtype)
    grad_hidden = torch.empty_like(hidden, dtype=dtype) if for_hidden else None
    grad_weight = torch.zeros_like(weight, dtype=torch.float32) if for_weight else None
    grad_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and for_bias else None
    losses = hidden.new_zeros((), dtype=torch.float32)
    chunk = max(1, _LOGITS_AT_ONCE // len(weight))
    for start in range(0, len(hidden), chunk):
        rows = slice(start, start + chunk)
        states = hidden[rows].to(dtype)
        logits = functional.linear(states, head, None if bias is None else bias.to(dtype))
        loss, grad_logits = _kernel(logits.device.type)(logits, targets[rows])
        losses += loss
        if grad_hidden is not None:
            torch.mm(grad_logits, head, out=grad_hidden[rows])
        if grad_weight is not None:
            grad_weight += grad_logits.T @ states
        if grad_bias is not None:
            grad_bias += grad_logits.sum(0, dtype=torch.float32)
    ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
    return losses


def _loss_and_gradient(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed loss and its gradient by the logits ``[tokens, V]``, in their dtype."""
    scores = logits.float()
    log_sum_exp = scores.logsumexp(1, keepdim=True)
    at_target = scores.gather(1, targets[:, None])
    gradient = (scores - log_sum_exp).exp()
    gradient = gradient - (torch.arange(logits.shape[1], device=logits.device) == targets[:, None]).float()
    return (log_sum_exp - at_target).sum(), gradient.to(logits.dtype)


@cache
def _kernel(device: str) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Two passes over the logits where there is a compiler for the device, seven otherwise."""
    return torch.compile(_loss_and_gradient, dynamic=True) if device == "cuda" else _loss_and_gradient
