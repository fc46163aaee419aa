"""The transformer blocks of a model: what is sharded, recomputed and compiled one by one."""

from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel


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


def checkpoint_blocks(model: nn.Module, count: int) -> None:
    """Keep only the inputs of the first ``count`` blocks and compute their activations anew in the backward pass.

    Source: Chen et al. 2016, arXiv:1604.06174. Results do not change, random numbers of dropout included.

    Raises:
        ValueError: if there are fewer blocks.
    """
    blocks = transformer_blocks(model)
    if not 0 <= count <= len(blocks):
        raise ValueError(f"activation checkpointing of {count} blocks: the model has {len(blocks)}, choose 0 to that")
    for block in blocks[:count]:
        # (inside of FSDP's hooks, which must not run again)
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def compile_blocks(model: nn.Module) -> None:
    """Compile each block with torch.compile, once for any number of tokens. Call it before `checkpoint_blocks`."""
    for block in transformer_blocks(model):
        block.forward = torch.compile(block.forward, dynamic=True)
