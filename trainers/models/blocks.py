"""The transformer blocks of a model: what is sharded, recomputed and compiled one by one."""

import logging
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers import PreTrainedModel

_OPTIONS: dict[str, Any] = {"triton.mix_order_reduction_non_strict_mode": True}
"""Fuse the sums of a norm's backward pass for any number of tokens. The compiler's own limit, from 4096 on, makes it
compile again, in the middle of a training, for the first minibatch below."""


def transformer_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks of a causal language model, in order; a model inside an adapter is looked into.

    Raises:
        ValueError: if the model has no list of as many modules as its configuration has hidden layers.
    """
    models = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    count = models[0].config.get_text_config().num_hidden_layers if models else None
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    raise ValueError(
        f"{type(model).__name__} has no list of num_hidden_layers={count} blocks: it cannot be trained here"
    )


def checkpoint_blocks(model: nn.Module, count: int, *, compiled: bool = False) -> None:
    """Let the first ``count`` blocks keep their inputs and what attention returned, and compute the rest anew.

    Attention is dear to compute and what it returns is small. Results do not change, random numbers of dropout
    included.

    Source: Chen et al. 2016, arXiv:1604.06174; that what is dear for its size is kept: Korthikanti et al. 2022,
    arXiv:2205.05198, section 5.

    Args:
        model: as it is called.
        count: from the first block on.
        compiled: `compile_blocks` was called. The compiler leaves out of the second computation what the backward pass
            does not ask for, such as a block's last product.

    Raises:
        ValueError: if there are fewer blocks.
    """
    blocks = transformer_blocks(model)
    if not 0 <= count <= len(blocks):
        raise ValueError(f"activation checkpointing of {count} blocks: the model has {len(blocks)}, choose 0 to that")
    for block in blocks[:count]:
        # (inside of FSDP's hooks, which must not run again; a method, so that the compiler sees that blocks are alike)
        forward = MethodType(forward_anew, block)
        block.forward = _compiled(forward) if compiled else forward


def compile_blocks(model: nn.Module) -> None:
    """Compile each block with torch.compile, once for any number of tokens. Call it before `checkpoint_blocks`."""
    for block in transformer_blocks(model):
        block.forward = _compiled(block.forward)


def _compiled(forward: Any) -> Any:
    # What is given to a block varies; what its modules hold, such as the epsilon of a norm, does not. (The compiler
    # takes floats for variables, finds out that they are constants only at its end, and begins anew.)
    torch._dynamo.config.specialize_float = True
    # It warns of operations in place where activations are computed anew; nothing that is kept goes through one.
    logging.getLogger("torch._higher_order_ops.wrap").setLevel(logging.ERROR)
    return torch.compile(forward, dynamic=True, options=_OPTIONS)


def forward_anew(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Compute a block as `checkpoint_blocks` lets it be computed."""
    return checkpoint(
        lambda *args, **kwargs: type(block).forward(block, *args, **kwargs),
        *args,
        use_reentrant=False,
        context_fn=partial(create_selective_checkpoint_contexts, _keep_attention),
        **kwargs,
    )


def _keep_attention(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Kernels of torch, of flash-attn, of TransformerEngine have attention in their names."""
    kept = "attention" in operation.name() or "flash_attn" in operation.name()
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
