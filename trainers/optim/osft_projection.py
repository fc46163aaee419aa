"""Projections that keep the trained part of OSFT layers orthogonal to the frozen part (arXiv 2504.07097, section 3).

Gradients are projected before the optimizer's step, so that its moments stay in the free subspace; parameters after it,
because elementwise rescaling, as in Adam, turns an update out of that subspace again. Singular values are free.

Neither needs a projector: X - H (H^T X) costs 4 k l n multiplications and additions for H (n, k) and X (n, l), and
holds (k, l) besides. U and V are sharded over n, so a rank multiplies its rows, and per layer one all-reduce adds up
both (k, l); it runs while the next layer's are multiplied.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor

from trainers.optim.full_precision import full_precision
from trainers.optim.gradients import local_shard
from trainers.optim.osft_linear import OsftLinear, osft_layers


def project_gradients(model: nn.Module) -> None:
    """Take out of the gradients of ``U_low`` and ``V_low`` what lies in the frozen subspace; collective if sharded."""
    _project(
        (layer, layer.U_low.grad, layer.V_low.grad)
        for layer in osft_layers(model).values()
        if layer.U_low.grad is not None and layer.V_low.grad is not None
    )


def project_parameters(model: nn.Module) -> None:
    """Take out of ``U_low`` and ``V_low`` themselves what lies in the frozen subspace; collective if sharded."""
    _project((layer, layer.U_low, layer.V_low) for layer in osft_layers(model).values())


class _Started(NamedTuple):
    """A projection whose overlaps are being added up."""

    tensors: list[Tensor]  # U-like (out, l) and V-like (in, l), rows of this rank
    bases: list[Tensor]  # U_high (out, k) and V_high (in, k), rows of this rank
    overlaps: Tensor  # (2, k, l)
    work: dist.Work | None


@torch.no_grad()
@full_precision()  # TF32 would leave a thousandth of what is to be taken out
def _project(jobs: Iterable[tuple[OsftLinear, Tensor, Tensor]]) -> None:
    running: _Started | None = None
    for layer, u, v in jobs:
        started = _start(layer, u, v)
        if running is not None:
            _finish(running)
        running = started
    if running is not None:
        _finish(running)


def _start(layer: OsftLinear, u: Tensor, v: Tensor) -> _Started:
    tensors, bases = [local_shard(u), local_shard(v)], [local_shard(layer.U_high), local_shard(layer.V_high)]
    overlaps = torch.stack([basis.mT @ tensor for basis, tensor in zip(bases, tensors, strict=True)])
    group = _shard_group(u)
    work = None if group is None else dist.all_reduce(overlaps, group=group, async_op=True)
    return _Started(tensors, bases, overlaps, work)


def _finish(started: _Started) -> None:
    if started.work is not None:
        started.work.wait()
    for tensor, basis, overlap in zip(started.tensors, started.bases, started.overlaps, strict=True):
        tensor.addmm_(basis, overlap, alpha=-1)


def _shard_group(tensor: Tensor) -> ProcessGroup | None:
    """Ranks over which rows are spread, or None if this rank has all of them."""
    if not isinstance(tensor, DTensor):
        return None
    sharded = [dim for dim, placement in enumerate(tensor.placements) if not placement.is_replicate()]
    if not sharded:
        return None
    assert len(sharded) == 1 and tensor.placements[sharded[0]].is_shard(0), f"rows in {tensor.placements}"
    return tensor.device_mesh.get_group(sharded[0])
