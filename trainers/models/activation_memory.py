"""How many blocks must compute their activations anew so that a training fits into a GPU's memory."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from trainers.models.blocks import forward_anew, transformer_blocks
from trainers.models.sharding import local_bytes

# Of the limit, for what is not counted: allocator rounding, communication buffers, kernels' workspaces.
_SLACK = 0.04


def blocks_to_checkpoint(
    model: nn.Module, run: Callable[[], Tensor], limit_bytes: float, *, in_buckets: bool = False
) -> int:
    """Measure what a block keeps for the backward pass, and count the blocks for which there is no room.

    Call it before the first step. One forward pass is run; nothing changes.

    Args:
        model: sharded or whole, on a GPU, without optimizer state yet.
        run: computes the loss of a minibatch as large as they come.
        limit_bytes: memory that may be used.
        in_buckets: gradients will be views of DDP's buckets (``gradient_as_bucket_view``), which are there already.

    Returns:
        0 to all blocks: the first so many are to be given to `checkpoint_blocks`.
    """
    blocks = len(transformer_blocks(model))
    measured = _measure(model, run)
    trained = sum(
        local_bytes(parameter)
        for parameter in model.parameters()
        if parameter.requires_grad and parameter.device == measured.device
    )
    # Gradient and two moments of each trained parameter, what is outside of the blocks, what each of them keeps in any
    # case, and a block that is computed anew with its gradients: twice what it keeps.
    state = (2 if in_buckets else 3) * trained
    rest = measured.base + state + measured.outside + blocks * measured.recomputed + 2 * measured.kept
    room = int((limit_bytes * (1 - _SLACK) - rest) // (measured.kept - measured.recomputed))
    return min(max(blocks - room, 0), blocks)


class _Measured(NamedTuple):
    """Bytes.

    Attributes:
        base: before the forward pass.
        outside: the most that is held at a time beside the last block's activations.
        kept: by a block for the backward pass, its output included.
        recomputed: the same of a block that is to be computed anew.
        device: where activations are.
    """

    base: int
    outside: int
    kept: int
    recomputed: int
    device: torch.device


def _measure(model: nn.Module, run: Callable[[], Tensor]) -> _Measured:
    last = transformer_blocks(model)[-1]
    allocated: list[int] = []
    devices: list[torch.device] = []

    def begin(block: nn.Module, args: Any, kwargs: Any) -> None:
        torch.set_grad_enabled(True)
        args[0].requires_grad_()
        devices.append(args[0].device)
        allocated.append(torch.cuda.memory_allocated())
        output = forward_anew(block, *args, **kwargs)
        allocated.append(torch.cuda.memory_allocated())
        del output
        torch.compiler.set_stance("default")
        allocated.append(torch.cuda.memory_allocated())

    def end(block: nn.Module, args: Any, output: Any) -> None:
        allocated.append(torch.cuda.memory_allocated())

    handles = [
        last.register_forward_pre_hook(begin, prepend=False, with_kwargs=True),
        last.register_forward_hook(end, prepend=True),
    ]
    base = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    # Up to the last block without activations, for which there may be no room, and without compilation, which would be
    # another one than that of training.
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        run()
    peak = torch.cuda.max_memory_allocated()
    for handle in handles:
        handle.remove()
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # (a forward pass alone leaves gathered weights in place of the parameters)
    before_anew, after_anew, before, after = allocated
    return _Measured(base, peak - base - (after - before), after - before, after_anew - before_anew, devices[0])
