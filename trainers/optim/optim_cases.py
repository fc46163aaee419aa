"""Tiny models and batches for tests of optimizers, OSFT and adapters."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

VOCABULARY = 64


def tiny_llama(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    """Two blocks, grouped heads, sizes that do not divide by four everywhere; the same values for the same seed."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 42,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **changes}))


def token_ids(rows: int, seed: int, device: torch.device | str = "cpu") -> Tensor:
    """Random ids (rows, 12)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY, (rows, 12), generator=generator).to(device)


def backward(model: nn.Module, ids: Tensor) -> float:
    """Accumulate the gradients of the mean loss of a batch, and return the loss."""
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return float(loss.detach())


def shard(model: PreTrainedModel, mesh: DeviceMesh | None = None) -> FSDPModule:
    """``fully_shard`` each block, then the root."""
    for block in model.get_decoder().layers:  # type: ignore[no-untyped-call]
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def whole(tensor: Tensor) -> Tensor:
    """The tensor gathered from all ranks, detached."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """Copies of everything in the state dict, gathered."""
    return {name: whole(tensor).clone() for name, tensor in model.state_dict().items()}


def train(model: nn.Module, update: Callable[[], object], steps: int, rank: int = 0, num_ranks: int = 1) -> list[float]:
    """Run ``update`` on the gradients of this rank's part of global batches of four rows; return the losses."""
    device = next(model.parameters()).device
    losses = []
    for step in range(steps):
        losses.append(backward(model, token_ids(4, step, device).chunk(num_ranks)[rank]))
        update()
    return losses
