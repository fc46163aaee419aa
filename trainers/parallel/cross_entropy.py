"""Cross entropy of logits whose vocabulary is spread over the tensor parallel ranks."""

from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh

from trainers.parallel.collectives import all_reduce
from trainers.parallel.mesh import tensor_parallel_group

Reduction = Literal["mean", "sum", "none"]


def vocab_parallel_cross_entropy(
    logits: Tensor,
    target: Tensor,
    mesh: DeviceMesh,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """``torch.nn.functional.cross_entropy`` without gathering the logits: three numbers per token are sent instead.

    Computed in fp32 (fp64 for fp64 logits), whatever the dtype of the logits, which stay as they are; the gradient is
    recomputed from them, so nothing of their size is kept (arXiv 1909.08053, section 3).

    Args:
        logits: (..., V / tp): rank r has the r-th contiguous block of the vocabulary.
        target: integers in [0, V) or ``ignore_index``, shape (...), the same on every rank.
        mesh: has a dimension ``tp``.
        ignore_index: target of tokens without loss.
        label_smoothing: in [0, 1]: share of the target probability that is spread over the whole vocabulary.
        reduction: ``"mean"`` over tokens with loss (0 if there is none), ``"sum"``, or ``"none"`` for a loss per token,
            0 for those without.

    Returns:
        The loss in fp32 (fp64 for fp64 logits), the same on every rank: a scalar, or (...) for ``"none"``.

    Raises:
        ValueError: shapes that do not match, an unknown reduction, smoothing outside [0, 1]; on a CPU also a target
            outside the vocabulary, whose loss an accelerator, which cannot stop for it, makes NaN.
    """
    if logits.shape[:-1] != target.shape:
        raise ValueError(f"logits of shape {tuple(logits.shape)} need a target for each row, got {tuple(target.shape)}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing={label_smoothing} must be in [0, 1]")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"unknown reduction {reduction!r}; use 'mean', 'sum' or 'none'")
    group = tensor_parallel_group(mesh)
    vocabulary = logits.shape[-1] * group.size()
    ignored = target == ignore_index
    outside = ~ignored & ((target < 0) | (target >= vocabulary))
    if target.device.type == "cpu" and outside.any():
        raise ValueError(f"targets {target[outside].unique().tolist()} lie outside the vocabulary of {vocabulary}")
    loss = _CrossEntropy.apply(logits, target, ignored, group, label_smoothing)  # type: ignore[no-untyped-call]
    assert isinstance(loss, Tensor)
    loss = loss.masked_fill(outside, float("nan"))
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    return loss.sum() / (~ignored).sum().clamp(min=1)


class _CrossEntropy(Function):
    """Loss per token; with smoothing e, logits x and target t: logsumexp(x) - (1 - e) * x[t] - e * mean(x)."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, ignored: Tensor, group: ProcessGroup, smoothing: float
    ) -> Tensor:
        size = logits.shape[-1]
        index = target - group.rank() * size
        held = ~ignored & (index >= 0) & (index < size)
        index = torch.where(held, index, 0).unsqueeze(-1)
        x = logits.to(torch.promote_types(logits.dtype, torch.float32))
        # Subtracting the largest logit keeps exp in range and does not change the loss.
        largest = all_reduce(x.amax(dim=-1), group, op=dist.ReduceOp.MAX)
        x = x - largest.unsqueeze(-1)
        at_target = x.gather(-1, index).squeeze(-1).masked_fill(~held, 0)
        exp_sum, at_target, total = all_reduce(torch.stack([x.exp().sum(-1), at_target, x.sum(-1)]), group).unbind()
        log_sum = exp_sum.log()
        loss = log_sum - (1 - smoothing) * at_target
        if smoothing:
            loss = loss - smoothing / (size * group.size()) * total
        ctx.save_for_backward(logits, index, held, ignored, log_sum + largest)
        ctx.smoothing, ctx.vocabulary = smoothing, size * group.size()
        return loss.masked_fill(ignored, 0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        logits, index, held, ignored, log_sum_exp = ctx.saved_tensors
        probability = (logits.to(log_sum_exp.dtype) - log_sum_exp.unsqueeze(-1)).exp_()
        if ctx.smoothing:
            probability.sub_(ctx.smoothing / ctx.vocabulary)
        probability.scatter_add_(-1, index, -(1 - ctx.smoothing) * held.unsqueeze(-1).to(probability.dtype))
        grad = grad.masked_fill(ignored, 0).unsqueeze(-1)
        return probability.mul_(grad).to(logits.dtype), None, None, None, None
