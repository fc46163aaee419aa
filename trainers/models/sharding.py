"""Fully sharded data parallelism: FSDP2 over a model's blocks, then over what is left.

Source: Rajbhandari et al. 2020, arXiv:1910.02054 (ZeRO stage 3), as torch's `fully_shard` does it.
"""

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from trainers.models.blocks import transformer_blocks


def shard_model(
    model: nn.Module,
    mesh: DeviceMesh,
    *,
    compute_dtype: torch.dtype,
    reshard_after_forward: bool = True,
    cpu_offload: bool = False,
) -> FSDPModule:
    """Shard parameters, gradients and, with them, optimizer state over the ranks of a mesh, in place.

    Parameters stay in the dtype they have (fp32: master weights); they are gathered, and blocks computed, in
    ``compute_dtype``. Gradients are summed, over ranks and over minibatches, in fp32 whatever they are computed in: in
    bf16 a sum of many loses the small ones.

    Args:
        model: on the CPU, on the meta device or on the mesh's device.
        mesh: one dimension, the data-parallel ranks.
        compute_dtype: of forward and backward pass.
        reshard_after_forward: free a block's gathered parameters between forward and backward pass and gather them
            again. False keeps all of them: faster, for the memory of the whole model in ``compute_dtype``.
        cpu_offload: keep shards and optimizer in the host's memory.

    Returns:
        The model.
    """
    # One rank sums over minibatches alone: into the fp32 of the shards, or of whole gradients where those are kept.
    sums_whole = mesh.size() > 1 or not reshard_after_forward
    precision = MixedPrecisionPolicy(
        param_dtype=compute_dtype, reduce_dtype=torch.float32 if sums_whole else compute_dtype
    )
    offload = CPUOffloadPolicy() if cpu_offload else OffloadPolicy()
    for block in transformer_blocks(model):
        sharded = fully_shard(
            block,
            mesh=mesh,
            mp_policy=precision,
            offload_policy=offload,
            reshard_after_forward=reshard_after_forward,
        )
        if mesh.size() == 1:
            # (nothing to wait for: the weights of the next block, gathered ahead of their use, would only take memory)
            sharded.set_modules_to_backward_prefetch([sharded])
        for module in block.modules():
            # The compiler would take every number that a module of FSDP's holds, such as the size of a head, for one
            # that varies, and compile kernels that divide by it.
            module._is_fsdp_managed_module = False  # type: ignore[assignment]
    return fully_shard(model, mesh=mesh, mp_policy=precision, offload_policy=offload)


def local_bytes(parameter: nn.Parameter) -> int:
    """Bytes of what this rank holds of a parameter, plain or sharded."""
    local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
    return int(local.nbytes)
