"""Norm and scaling of gradients, plain or sharded by FSDP2, without waiting for the device."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial, Replicate


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale all gradients by one factor so that their global norm is at most ``max_norm``; collective for DTensors.

    A norm that is not finite scales nothing.

    Args:
        parameters: plain or DTensors, also both; those without a gradient are passed over.
        max_norm: > 0; infinity only measures.

    Returns:
        The 2-norm before the scaling: fp32, 0-d, on the gradients' device, the same on every rank. Nothing here reads
        it on the host.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = global_norm(gradients)
    factor = torch.where(norm.isfinite(), (max_norm / norm).clamp(max=1.0), 1.0)
    shards = [local_shard(gradient) for gradient in gradients]
    if shards:
        torch._foreach_mul_(shards, factor)
    return norm


def global_norm(tensors: Iterable[Tensor]) -> Tensor:
    """2-norm of all entries of ``tensors``, in fp32: 0-d, the same on every rank; collective for DTensors.

    Squares of the local shards are summed first, then over the ranks that hold different shards: one all-reduce of a
    number for each mesh, however many tensors there are.
    """
    kinds: dict[tuple[object, ...], list[Tensor]] = {}
    for tensor in tensors:
        kind = (tensor.device_mesh, tensor.placements) if isinstance(tensor, DTensor) else ()
        kinds.setdefault(kind, []).append(tensor)
    squares = [_sum_of_squares(alike) for alike in kinds.values()]
    return torch.stack(squares).sum().sqrt() if squares else torch.zeros(())


def _sum_of_squares(alike: list[Tensor]) -> Tensor:
    norms = torch._foreach_norm([local_shard(tensor) for tensor in alike], 2, dtype=torch.float32)
    square = torch.stack(norms).square().sum()
    first = alike[0]
    if not isinstance(first, DTensor):
        return square
    assert not any(placement.is_partial() for placement in first.placements), "squares of partial sums do not add up"
    placements = [Partial() if placement.is_shard() else Replicate() for placement in first.placements]
    total: Tensor = DTensor.from_local(square, first.device_mesh, placements, run_check=False).full_tensor()
    return total.to(square.device)  # (shards that are offloaded to the CPU are summed over a mesh of GPUs)


def local_shard(tensor: Tensor) -> Tensor:
    """Return what this rank holds of a tensor, plain or sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
