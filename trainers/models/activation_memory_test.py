"""As many blocks are recomputed as do not fit, and a sharded model is left as it was."""

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from testing.distributed.case import DistributedTest
from testing.tiny_models.models import tiny_model
from trainers.models.activation_memory import blocks_to_checkpoint
from trainers.models.sharding import shard_model

IDS = torch.arange(12)[None]
BLOCKS = 4
AT_REST, BEFORE_LAST_BLOCK, AFTER_LAST_BLOCK, PEAK = 10**6, 16 * 10**5, 18 * 10**5, 21 * 10**5


def chosen(monkeypatch, model, limit):
    """Return the choice where the allocator says what stands above: a block keeps 200 kB, all is 1100 kB."""
    said = iter([AT_REST, BEFORE_LAST_BLOCK, AFTER_LAST_BLOCK])
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: next(said))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: PEAK)
    return blocks_to_checkpoint(model, lambda: model(input_ids=IDS, labels=IDS, use_cache=False).loss, limit)


@pytest.mark.parametrize(
    ("room", "expected"),
    [(-1, 4), (0.1, 4), (1.1, 3), (2.1, 2), (3.9, 1), (4.1, 0), (100, 0)],
)
def test_blocks_without_room(monkeypatch, room, expected):
    model = tiny_model(num_hidden_layers=BLOCKS)
    model.lm_head.requires_grad_(False)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    # Outside of the blocks 300 kB, recomputing one 400 kB; gradient and two moments in fp32.
    rest = AT_REST + 300_000 + 400_000 + 3 * 4 * trained
    assert chosen(monkeypatch, model, (rest + room * 200_000) / 0.96) == expected


class TestSharded(DistributedTest):
    world_size = 2

    def test_the_optimizer_finds_the_shards(self, monkeypatch):
        model = tiny_model(num_hidden_layers=BLOCKS)
        shard_model(model, init_device_mesh("cpu", (2,)), compute_dtype=torch.float32)
        before = list(model.parameters())
        chosen(monkeypatch, model, 10**9)
        after = list(model.parameters())
        assert all(isinstance(parameter, DTensor) and parameter.grad is None for parameter in after)
        assert all(one is other for one, other in zip(before, after, strict=True))
