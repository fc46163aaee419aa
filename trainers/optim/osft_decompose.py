"""Singular value decompositions of a model's weights, shared out over the ranks."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor, distribute_tensor

from trainers.optim.osft_linear import Factors, OsftLinear
from trainers.parallel.ranks import Ranks


def decompose(weight: Tensor) -> Factors:
    """Thin singular value decomposition of a weight (out, in), in its dtype; all NaN if an entry is not finite.

    On a GPU it is computed in fp64: there torch's fp32 (cuSOLVER's gesvdj) leaves vectors of 2048 entries orthogonal to
    a thousandth only, in two thirds of the time.
    """
    if not weight.isfinite().all():
        return Factors(*(torch.full_like(factor, torch.nan) for factor in _empty(weight)))
    dtype = torch.float64 if weight.is_cuda else weight.dtype
    u, s, vh = (factor.to(weight.dtype) for factor in torch.linalg.svd(weight.to(dtype), full_matrices=False))
    return Factors(u.contiguous(), s, vh.mT.contiguous())


def svd_cost(shape: tuple[int, int] | torch.Size) -> int:
    """What a decomposition of a weight of this shape costs, up to a constant."""
    out_features, in_features = shape
    return out_features * in_features * min(out_features, in_features)


def rounds(costs: Mapping[str, int], num_ranks: int) -> list[list[str]]:
    """Share jobs out: rank r does the r-th job of each round, and rounds come one after the other.

    Jobs go into rounds from the dearest to the cheapest (ties: by name), so those of a round cost about the same. As in
    longest-processing-time scheduling, nothing takes longer than the mean load of a rank plus the dearest job; and
    a result can be passed on at the end of its round, so a rank holds its own and one of another's.

    Args:
        costs: of each job.
        num_ranks: at least 1; the last round may have fewer jobs.
    """
    order = sorted(costs, key=lambda name: (-costs[name], name))
    return [order[start : start + num_ranks] for start in range(0, len(order), num_ranks)]


@torch.no_grad()
def load_dense_weights(
    layers: Mapping[str, OsftLinear],
    weights: Mapping[str, Tensor],
    group: ProcessGroup | None = None,
    device: torch.device | None = None,
) -> None:
    """Fill the factors of ``layers`` with the decompositions of dense weights; collective if there is a process group.

    Each rank decomposes its share in the dtype of the factors and broadcasts the result. The factors may be plain or
    sharded, in which case a rank keeps its shards: a model made on ``meta``, sharded and only then filled from lazily
    read weights never holds more than two decompositions in whole.

    Args:
        layers: what :func:`trainers.optim.osft.insert_osft_layers` returned.
        weights: dense weight by layer name, in the layout of the layer it comes from. A rank reads those that it
            decomposes, so the mapping may load on access.
        group: ranks that share the work and all call this; default all ranks if torch.distributed is initialised.
        device: where to decompose; default where the factors are.

    Raises:
        ValueError: a weight is missing, or has entries that are not finite; on every rank.
        RankError: a rank cannot read a weight, or it has another shape; on every rank.
    """
    for name, layer in layers.items():
        if name not in weights:
            raise ValueError(f"no dense weight is given for {name}: is it in the checkpoint?")
        if layer.U_high.is_meta:
            raise ValueError(f"the factors of {name} are on meta: call to_empty(device=...) before weights are loaded")
    ranks = Ranks(group)
    costs = {name: svd_cost((layer.out_features, layer.in_features)) for name, layer in layers.items()}

    def decompose_own(names: Sequence[str]) -> Factors | None:
        if ranks.rank >= len(names):
            return None
        name = names[ranks.rank]
        return _decompose(name, layers[name], weights, device)

    for names in rounds(costs, ranks.world_size):
        own = ranks.each(partial(decompose_own, names))
        for owner, name in enumerate(names):
            layer = layers[name]
            factors = own if own is not None and owner == ranks.rank else _empty(_stand_in(layer, device))
            if ranks.world_size > 1:
                for factor in factors:
                    dist.broadcast(factor, group=group, group_src=owner)
            if not factors.s.isfinite().all():
                raise ValueError(f"the weight of {name} has entries that are not finite: it cannot be decomposed")
            _load(layer, factors)


def _decompose(name: str, layer: OsftLinear, weights: Mapping[str, Tensor], device: torch.device | None) -> Factors:
    weight = weights[name].detach()
    weight = weight.mT if layer.transposed else weight
    like = _stand_in(layer, device)
    if weight.shape != like.shape:
        raise ValueError(f"the dense weight of {name} is {tuple(weight.shape)}, the layer needs {tuple(like.shape)}")
    return decompose(weight.to(like))


def _stand_in(layer: OsftLinear, device: torch.device | None) -> Tensor:
    """Shape, dtype and device of the dense weight, without memory of its own."""
    s = layer.S_high.to_local() if isinstance(layer.S_high, DTensor) else layer.S_high
    return s.new_empty((), device=device).expand(layer.out_features, layer.in_features)


def _empty(weight: Tensor) -> Factors:
    out_features, in_features = weight.shape
    rank = min(weight.shape)
    return Factors(*(weight.new_empty(size) for size in ((out_features, rank), (rank,), (in_features, rank))))


def _load(layer: OsftLinear, factors: Factors) -> None:
    for parameter, part in layer.split(factors):
        if isinstance(parameter, DTensor):
            mine = distribute_tensor(part, parameter.device_mesh, parameter.placements, src_data_rank=None)
            parameter.to_local().copy_(mine.to_local())
        else:
            parameter.copy_(part)
