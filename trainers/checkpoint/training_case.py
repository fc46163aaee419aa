"""A short training that uses what a checkpoint must keep: tied and frozen weights, a buffer, every generator."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR

from trainers.checkpoint.module_state import all_tensors, without_aliases

VOCABULARY = 29  # no multiple of any number of ranks


class TinyLM(nn.Module):
    """Embedding, two linears, output tied to the embedding."""

    steps_seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 12)
        self.frozen = nn.Linear(12, 12).requires_grad_(False)
        self.hidden = nn.Sequential(nn.Linear(12, 12), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(12, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("steps_seen", torch.zeros(3, dtype=torch.int64))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return logits ``[..., VOCABULARY]`` of ids ``[...]``."""
        self.steps_seen += 1
        x: torch.Tensor = self.head(self.hidden(self.frozen(self.embedding(ids))))
        return x


@dataclass
class Training:
    """A model under training, from a seed."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: LambdaLR
    device: torch.device

    @classmethod
    def start(cls, wrapper: str, seed: int, device: torch.device) -> Training:
        """Build it; ``wrapper`` is fsdp, ddp or, for one rank, plain. The generators are seeded per rank."""
        torch.manual_seed(seed)
        model: nn.Module = TinyLM().to(device)
        if wrapper == "fsdp":
            mesh = init_device_mesh(device.type, (dist.get_world_size(),))
            fully_shard(model.hidden, mesh=mesh)
            fully_shard(model, mesh=mesh)
        elif wrapper == "ddp":
            model = DistributedDataParallel(model)
            _settle_buckets(model, device)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups = [{"params": trained[:1], "lr": 0.02}, {"params": trained[1:], "weight_decay": 0.1}]
        optimizer = torch.optim.AdamW(groups, lr=0.01)
        scheduler = LambdaLR(optimizer, lambda step: 1.0 / (1 + step))
        rank = dist.get_rank() if dist.is_initialized() else 0
        for seed_of in (random.seed, np.random.seed, torch.manual_seed):
            seed_of(1000 * seed + rank)
        return cls(model, optimizer, scheduler, device)

    def step(self) -> None:
        """Take an optimizer step on data that all generators have a part in."""
        ids = (torch.randint(VOCABULARY, (4, 6)) + np.random.randint(VOCABULARY) + random.randrange(VOCABULARY)) % (
            VOCABULARY
        )
        logits = self.model(ids.to(self.device))
        nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten().to(self.device)).backward()
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()

    def state(self, *, full: bool = False) -> dict[str, Any]:
        """Return a copy of all there is, by name: this rank's shards, or with ``full`` whole tensors."""
        tensors = without_aliases(all_tensors(self.model))
        names = {id(tensor): name for name, tensor in tensors.items()}
        state: dict[str, Any] = {name: _copy(tensor, full) for name, tensor in tensors.items()}
        for parameter, moments in self.optimizer.state.items():
            for key, value in moments.items():
                state[f"{key} of {names[id(parameter)]}"] = _copy(value, full)
        for number, group in enumerate(self.optimizer.param_groups):
            state |= {f"group {number} {key}": value for key, value in group.items() if key != "params"}
        return state | {"scheduler": self.scheduler.state_dict()}

    def draws(self) -> tuple[Any, ...]:
        """Return the next random number of each generator of this rank."""
        return (
            random.random(),
            np.random.random(),
            torch.rand(()).item(),
            torch.rand((), device=self.device).item(),
        )


def assert_same(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare two of `Training.state` bit by bit."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert actual[name].dtype == value.dtype and actual[name].device == value.device, name
            assert torch.equal(actual[name], value), name
        else:
            assert actual[name] == value, name


def _settle_buckets(model: nn.Module, device: torch.device) -> None:
    """Let DDP rearrange its buckets, which it does after the first step.

    The order of a bucket decides in which order gloo and NCCL add up what more than two ranks send: otherwise a step
    that is the first of a process rounds differently from the same step of a process that has run before.
    """
    for _ in range(2):
        model(torch.zeros(1, dtype=torch.int64, device=device)).sum().backward()
    model.zero_grad()


def _copy(value: Any, full: bool) -> Any:
    if isinstance(value, DTensor):
        value = value.full_tensor() if full else value.to_local()
    return value.detach().clone() if isinstance(value, torch.Tensor) else value
