"""A few steps of training a tiny model, alone or on every rank."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from testing.tiny_models.models import VOCABULARY


def token_ids(rows: int, seed: int, device: torch.device | str = "cpu") -> Tensor:
    """Random ids (rows, 12)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY, (rows, 12), generator=generator).to(device)


def backward(model: nn.Module, ids: Tensor) -> float:
    """Accumulate the gradients of the mean loss of a batch, and return the loss."""
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return float(loss.detach())


def train(model: nn.Module, update: Callable[[], object], steps: int, rank: int = 0, num_ranks: int = 1) -> list[float]:
    """Run ``update`` on the gradients of this rank's part of global batches of four rows; return the losses."""
    device = next(model.parameters()).device
    losses = []
    for step in range(steps):
        losses.append(backward(model, token_ids(4, step, device).chunk(num_ranks)[rank]))
        update()
    return losses
