"""Differentiable regions: where a tensor enters or leaves tensor or sequence parallel computation.

Each function is a pair of collectives, one forward and its adjoint backward:

| function                   | forward                    | backward                   |
|----------------------------|----------------------------|----------------------------|
| ``copy_to_region``         | identity                   | all-reduce                 |
| ``reduce_from_region``     | all-reduce                 | identity                   |
| ``scatter_to_region``      | split last dim             | all-gather last dim        |
| ``gather_from_region``     | all-gather last dim        | split last dim             |
| ``gather_sequence``        | all-gather dim 0           | reduce-scatter dim 0       |
| ``reduce_scatter_sequence``| reduce-scatter dim 0       | all-gather dim 0           |
| ``scatter_sequence``       | split dim 0                | all-gather dim 0           |

Every sum is taken in ``reduce_dtype`` and cast back. The first four are the conjugate operators f and g of Megatron-LM
(Shoeybi et al., arXiv 1909.08053, section 3) and their last-dim forms; the sequence ones are those of Korthikanti et
al. (arXiv 2205.05198, section 4.2.2). Sequence layout is (S, B, H): sequence, batch, hidden.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.distributed import ProcessGroup

from trainers.parallel.collectives import all_gather, all_reduce, reduce_scatter, split

_LAST, _SEQUENCE = -1, 0


class _CopyAllReduce(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup, dtype: torch.dtype) -> Tensor:
        ctx.group, ctx.dtype = group, dtype
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return all_reduce(grad, ctx.group, ctx.dtype), None, None


class _AllReduceCopy(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup, dtype: torch.dtype) -> Tensor:
        return all_reduce(x, group, dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad, None, None


class _SplitAllGather(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, group: ProcessGroup) -> Tensor:
        ctx.dim, ctx.group = dim, group
        return split(x, dim, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return all_gather(grad, ctx.dim, ctx.group), None, None


class _AllGatherSplit(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, group: ProcessGroup) -> Tensor:
        ctx.dim, ctx.group = dim, group
        return all_gather(x, dim, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return split(grad, ctx.dim, ctx.group), None, None


class _AllGatherReduceScatter(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, group: ProcessGroup, dtype: torch.dtype) -> Tensor:
        ctx.dim, ctx.group, ctx.dtype = dim, group, dtype
        return all_gather(x, dim, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return reduce_scatter(grad, ctx.dim, ctx.group, ctx.dtype), None, None, None


class _ReduceScatterAllGather(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, group: ProcessGroup, dtype: torch.dtype) -> Tensor:
        ctx.dim, ctx.group = dim, group
        return reduce_scatter(x, dim, group, dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return all_gather(grad, ctx.dim, ctx.group), None, None, None


def copy_to_region(x: Tensor, group: ProcessGroup, reduce_dtype: torch.dtype = torch.float32) -> Tensor:
    """Enter tensor parallel computation with a tensor that every rank holds: its gradients are summed over ranks."""
    return _apply(_CopyAllReduce, x, group, reduce_dtype)


def reduce_from_region(x: Tensor, group: ProcessGroup, reduce_dtype: torch.dtype = torch.float32) -> Tensor:
    """Leave tensor parallel computation with the sum of the ranks' partial results, on every rank."""
    return _apply(_AllReduceCopy, x, group, reduce_dtype)


def scatter_to_region(x: Tensor, group: ProcessGroup) -> Tensor:
    """Keep this rank's part of the last dimension of a tensor that every rank holds.

    Raises:
        ValueError: the last dimension does not divide by the size of the group.
    """
    return _apply(_SplitAllGather, x, _LAST, group)


def gather_from_region(x: Tensor, group: ProcessGroup) -> Tensor:
    """Join the ranks' parts along the last dimension. What follows is computed alike on every rank."""
    return _apply(_AllGatherSplit, x, _LAST, group)


def gather_sequence(x: Tensor, group: ProcessGroup, reduce_dtype: torch.dtype = torch.float32) -> Tensor:
    """Enter tensor parallel computation with a sequence-sharded tensor: (S / tp, B, H) to (S, B, H)."""
    return _apply(_AllGatherReduceScatter, x, _SEQUENCE, group, reduce_dtype)


def reduce_scatter_sequence(x: Tensor, group: ProcessGroup, reduce_dtype: torch.dtype = torch.float32) -> Tensor:
    """Leave tensor parallel computation with this rank's part of the summed sequence: (S, B, H) to (S / tp, B, H).

    Raises:
        ValueError: the sequence does not divide by the size of the group.
    """
    return _apply(_ReduceScatterAllGather, x, _SEQUENCE, group, reduce_dtype)


def scatter_sequence(x: Tensor, group: ProcessGroup) -> Tensor:
    """Keep this rank's part of the sequence of a tensor that every rank holds: (S, B, H) to (S / tp, B, H).

    Raises:
        ValueError: the sequence does not divide by the size of the group.
    """
    return _apply(_SplitAllGather, x, _SEQUENCE, group)


def _apply(function: type[Function], x: Tensor, *args: Any) -> Tensor:
    # A typed door: torch leaves Function.apply unannotated.
    result = function.apply(x, *args)
    assert isinstance(result, Tensor)
    return result
