"""Which rows (or columns) of a whole parameter a tensor parallel rank holds, and how whole parameters come to be.

A shard is always ``full.index_select(dim, index)``; layers differ only in the index. Whole parameters are drawn on the
CPU in fp32 and then sharded, so initial values depend on the seed and not on the number of ranks. Every rank draws from
its default CPU generator, which must therefore be seeded alike on all of them.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from trainers.parallel.collectives import require_divisible

Initializer = Callable[[Tensor], object]
"""Fills a whole fp32 CPU tensor in place, as the functions of ``torch.nn.init`` do."""


def shard_index(size: int, world_size: int, rank: int, *, stride: int = 1) -> Tensor:
    """Indices that ``rank`` holds of a dimension of ``size`` elements.

    Args:
        size: length of the whole dimension.
        world_size: number of ranks that share it.
        rank: which of them.
        stride: how many weights of equal size the dimension joins. Each is sharded by itself: of the fused weight
            [gate; up] (stride 2) rank r holds [gate_r; up_r].

    Returns:
        int64, shape (size / world_size,).

    Raises:
        ValueError: ``size`` does not divide by ``stride``, or each part not by ``world_size``.
    """
    if stride < 1 or size % stride:
        raise ValueError(f"a dimension of {size} cannot hold stride={stride} fused weights of equal size")
    what = f"size {size}" if stride == 1 else f"size {size} / stride {stride}"
    length = require_divisible(size // stride, world_size, what)
    return torch.arange(size, device="cpu").view(stride, world_size, length)[:, rank].flatten()


def head_rows(heads: Iterable[int], head_dim: int) -> Tensor:
    """Rows of a projection weight that belong to ``heads``, in their order.

    Returns:
        int64, shape (number of heads * head_dim,).
    """
    return (
        torch.tensor(list(heads), device="cpu").unsqueeze(1) * head_dim + torch.arange(head_dim, device="cpu")
    ).flatten()


def inverse_permutation(permutation: Tensor) -> Tensor:
    """The permutation that undoes ``permutation``: ``x[permutation][inverse]`` is ``x``."""
    return torch.argsort(permutation)


@torch.no_grad()
def copy_shard(parameter: Tensor, full: Tensor, dim: int, index: Tensor) -> None:
    """Fill ``parameter`` with its part of ``full``, cast to the parameter's dtype and device.

    Args:
        parameter: the shard, written in place.
        full: the whole parameter, on any device, of any floating dtype.
        dim: the sharded dimension.
        index: what this rank holds of it, shape (parameter.shape[dim],).

    Raises:
        ValueError: the part of ``full`` does not have the shape of ``parameter``, or ``index`` lies outside ``full``.
    """
    expected = tuple(index.numel() if d == dim else n for d, n in enumerate(full.shape))
    if expected != tuple(parameter.shape) or int(index.max()) >= full.shape[dim]:
        raise ValueError(
            f"a whole parameter of shape {tuple(full.shape)} has no shard of shape {tuple(parameter.shape)} at "
            f"{index.numel()} indices up to {int(index.max())} of dimension {dim}"
        )
    parameter.copy_(full.index_select(dim, index.to(full.device)))


def draw_full(shape: tuple[int, ...], initializer: Initializer) -> Tensor:
    """A whole parameter, drawn in fp32 on the CPU."""
    full = torch.empty(shape, dtype=torch.float32, device="cpu")
    initializer(full)
    return full


def linear_weight(weight: Tensor) -> None:
    """The initial weight of ``torch.nn.Linear``, shape (out, in): uniform in +-1 / sqrt(in)."""
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5))


def linear_bias(in_features: int) -> Initializer:
    """The initial bias of ``torch.nn.Linear``: uniform in +-1 / sqrt(in)."""
    bound = 1 / math.sqrt(in_features)
    return lambda bias: nn.init.uniform_(bias, -bound, bound)
