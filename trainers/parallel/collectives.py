"""Collectives that return new tensors, with the differences between torch versions and backends settled here.

None of these is differentiable; `mappings.py` builds autograd regions from them. In a group of one rank they return
their input, and nothing is sent.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

# torch 2.13 renamed both and warns about the old names; 2.11 has only the old ones.
_all_gather_single: Callable[..., Any] = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter_single: Callable[..., Any] = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def require_divisible(value: int, size: int, what: str) -> int:
    """``value // size``.

    Raises:
        ValueError: there is a remainder; the message names ``what``, the value and the size.
    """
    if value % size:
        raise ValueError(f"{what} is {value}, which does not divide by the tensor parallel size {size}")
    return value // size


def all_reduce(
    x: Tensor, group: ProcessGroup, dtype: torch.dtype | None = None, op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM
) -> Tensor:
    """Reduction of ``x`` over the ranks of ``group``, on every rank.

    Args:
        x: any shape; every rank gives the same shape.
        group: the ranks that take part.
        dtype: reduce in this dtype, then cast back to that of ``x``; None reduces in the dtype of ``x``.
        op: sum unless told otherwise.

    Returns:
        A tensor of the shape and dtype of ``x``, which is left as it was.
    """
    if group.size() == 1:
        return x
    dtype = x.dtype if dtype is None else dtype
    reduced = x.to(dtype, copy=True, memory_format=torch.contiguous_format)
    dist.all_reduce(reduced, op=op, group=group)
    return reduced.to(x.dtype)


def all_gather(x: Tensor, dim: int, group: ProcessGroup) -> Tensor:
    """The tensors of all ranks of ``group``, joined along ``dim`` in rank order, on every rank.

    Args:
        x: this rank's part, of the same shape on every rank.
        dim: dimension to join; its size grows by the size of the group.
        group: the ranks that take part.
    """
    if group.size() == 1:
        return x
    x = x.contiguous()
    parts = x.new_empty((group.size(), *x.shape))
    # Backends join the first dimension only.
    _all_gather_single(parts.flatten(0, 1), x, group=group)
    return parts.flatten(0, 1) if dim % x.dim() == 0 else torch.cat(parts.unbind(0), dim=dim)


def reduce_scatter(x: Tensor, dim: int, group: ProcessGroup, dtype: torch.dtype | None = None) -> Tensor:
    """This rank's part, along ``dim``, of the sum of ``x`` over the ranks of ``group``.

    Args:
        x: of the same shape on every rank; the size of ``dim`` must divide by the size of the group.
        dim: dimension to split; rank r of the group gets its r-th part.
        group: the ranks that take part.
        dtype: sum in this dtype, then cast back to that of ``x``; None sums in the dtype of ``x``.

    Raises:
        ValueError: the size of ``dim`` does not divide by the size of the group.
    """
    if group.size() == 1:
        return x
    require_divisible(x.shape[dim], group.size(), f"dimension {dim} of a tensor of shape {tuple(x.shape)}")
    dtype = x.dtype if dtype is None else dtype
    # Backends scatter the first dimension only.
    parts = x.to(dtype).movedim(dim, 0).contiguous()
    part = parts.new_empty((parts.shape[0] // group.size(), *parts.shape[1:]))
    _reduce_scatter_single(part, parts, group=group)
    return part.movedim(0, dim).to(x.dtype).contiguous()


def split(x: Tensor, dim: int, group: ProcessGroup) -> Tensor:
    """This rank's part of ``x`` along ``dim``, which every rank holds; nothing is sent.

    Raises:
        ValueError: the size of ``dim`` does not divide by the size of the group.
    """
    if group.size() == 1:
        return x
    length = require_divisible(x.shape[dim], group.size(), f"dimension {dim} of a tensor of shape {tuple(x.shape)}")
    # A copy: a view would keep the whole tensor alive, and custom autograd functions may not hand out views to edit.
    return x.narrow(dim, group.rank() * length, length).clone(memory_format=torch.contiguous_format)
