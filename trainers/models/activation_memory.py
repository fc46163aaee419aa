"""How many blocks must compute their activations anew so that a training fits into a GPU's memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from trainers.models.blocks import transformer_blocks
from trainers.models.sharding import local_bytes

# Of the limit, for what is not counted: allocator rounding, communication buffers, kernels' workspaces.
_SLACK = 0.04


def blocks_to_checkpoint(model: nn.Module, run: Callable[[], Tensor], limit_bytes: float) -> int:
    """Measure what a block keeps for the backward pass, and count the blocks for which there is no room.

    Call it before the first step. One forward pass is run; nothing changes.

    Args:
        model: sharded or whole, on a GPU, without optimizer state yet.
        run: computes the loss of a minibatch as large as they come.
        limit_bytes: memory that may be used.

    Returns:
        0 to all blocks: the first so many are to be given to `checkpoint_blocks`.
    """
    blocks = transformer_blocks(model)
    before: list[int] = []
    after: list[tuple[int, int]] = []  # and the bytes of the block's output

    def begin(module: nn.Module, args: Any) -> None:
        torch.set_grad_enabled(True)
        torch.compiler.set_stance("default")
        args[0].requires_grad_()
        before.append(torch.cuda.memory_allocated())

    def end(module: nn.Module, args: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        after.append((torch.cuda.memory_allocated(), hidden.nbytes))

    handles = [
        blocks[-1].register_forward_pre_hook(begin, prepend=False),
        blocks[-1].register_forward_hook(end, prepend=True),
    ]
    base = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    # Up to the last block without activations, for which there may be no room, and without compilation, which would be
    # another one than that of training.
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        run()
    kept_by_one = torch.cuda.max_memory_allocated() - base
    for handle in handles:
        handle.remove()
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # (a forward pass alone leaves gathered weights in place of the parameters)
    ((allocated, of_hidden),) = after
    of_block = allocated - before[0]
    trained = sum(local_bytes(parameter) for parameter in model.parameters() if parameter.requires_grad)
    # A block that is computed anew keeps its input and what attention returned, each about the size of its output.
    kept_anyway = 2 * of_hidden
    # Gradient and two moments of each trained parameter, what is outside of the blocks, what each of them keeps in any
    # case, and a block that is computed anew with its gradients: twice what it keeps.
    rest = base + 3 * trained + (kept_by_one - of_block) + len(blocks) * kept_anyway + 2 * of_block
    room = int((limit_bytes * (1 - _SLACK) - rest) // (of_block - kept_anyway))
    return min(max(len(blocks) - room, 0), len(blocks))
