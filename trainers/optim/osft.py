"""Orthogonal subspace fine-tuning (OSFT): full fine-tuning that leaves what a model knows best untouched.

"Sculpting Subspaces: Constrained Full Fine-Tuning in LLMs for Continual Learning", Nayak et al. 2025, arXiv 2504.07097.
docs/osft.md has the algorithm, its costs, and how it goes together with FSDP2.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor

from trainers.optim.osft_decompose import load_dense_weights
from trainers.optim.osft_linear import OsftLinear, osft_layers
from trainers.optim.projections import find_projections
from trainers.optim.state_names import state_name


def apply_osft(
    model: nn.Module,
    unfreeze_ratio: float,
    patterns: Sequence[str] | None = None,
    group: ProcessGroup | None = None,
    device: torch.device | None = None,
) -> None:
    """Replace the matched linear layers by factored ones with the same weights; before ``fully_shard``, collective.

    A weight of rank r = min(out, in) keeps its ``round((1 - unfreeze_ratio) * r)`` largest singular directions frozen
    and trains the others. Where that is all of them, the dense layer stays and its weight is frozen as it is; where it
    is none, the dense layer stays and is trained freely. So 0 freezes all matched weights bit by bit, and 1 is full
    fine-tuning. What is not matched (embeddings, norms, biases, output layer) is trained as before.

    Args:
        model: with the same weights on every rank.
        unfreeze_ratio: share of the directions that are trained, from 0 to 1.
        patterns: ends of names of linear layers; default the projections of attention and MLP (projections.py).
        group: ranks that share the decompositions; default all.
        device: where to decompose, and from where results are sent; default where the model is. NCCL's ranks need
            their GPUs.

    Raises:
        ValueError: the ratio is out of range, nothing is matched, or a weight is sharded, not in fp32, on ``meta`` or
            not finite.
    """
    weights = {name: layer.weight for name, layer in find_projections(model, patterns).items()}
    load_dense_weights(insert_osft_layers(model, unfreeze_ratio, patterns), weights, group, device)


def insert_osft_layers(
    model: nn.Module, unfreeze_ratio: float, patterns: Sequence[str] | None = None
) -> dict[str, OsftLinear]:
    """What :func:`apply_osft` does, without decomposing: the factors are undefined, or on ``meta`` like the model.

    Fill them with ``load_state_dict`` to resume, or with :func:`trainers.optim.osft_decompose.load_dense_weights` to
    start from weights that no rank holds in whole.

    Returns:
        The new layers by name.

    Raises:
        ValueError: the ratio is out of range, nothing is matched, or a weight is sharded or not in fp32.
    """
    if not 0 <= unfreeze_ratio <= 1:
        raise ValueError(f"unfreeze_ratio={unfreeze_ratio} must lie in 0..1: it is the share of directions to train")
    inserted = {}
    for name, layer in find_projections(model, patterns).items():
        _check_weight(name, layer.weight)
        rank = min(layer.weight.shape)
        rank_high = round((1 - unfreeze_ratio) * rank)
        if rank_high == rank:
            layer.weight.requires_grad_(False)
        elif rank_high > 0:
            inserted[name] = OsftLinear.in_place_of(layer, rank_high)
            model.set_submodule(name, inserted[name])
    return inserted


def dense_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The state dict of the model as it was before OSFT: the same keys and shapes, factors multiplied out.

    One at a time, so that no second model is held: write each before you ask for the next, or call ``dict`` on it. With
    FSDP2 the tensors are DTensors, every rank must ask for all of them, and none is gathered here.
    """
    layers = {state_name(name): layer for name, layer in osft_layers(model).items()}
    for key, tensor in model.state_dict().items():
        prefix, _, leaf = key.rpartition(".")
        if prefix not in layers or leaf == "bias":
            yield key, tensor
        elif leaf == "U_high":  # (the first of six factors)
            yield f"{prefix}.weight", layers[prefix].dense_weight()


def _check_weight(name: str, weight: Tensor) -> None:
    if isinstance(weight, DTensor):
        raise ValueError(f"the weight of {name} is sharded already: insert OSFT layers before fully_shard")
    if weight.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"the weight of {name} is {weight.dtype}, in which factors would not be orthogonal: load the model in fp32 "
            "and compute in bf16 with FSDP2's MixedPrecisionPolicy or autocast"
        )
