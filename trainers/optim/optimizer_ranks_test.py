"""Every optimizer on parameters that FSDP2 shards, against the same optimizer on one rank."""

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard

from testing.distributed.case import DistributedTest
from testing.tiny_models.models import tiny_model
from testing.tiny_models.shards import shard, whole, whole_state
from testing.tiny_models.training import train
from testing.tolerances.tolerances import assert_close, tolerance_of
from trainers.optim.optimizer import build_optimizer


class TestOptimizersOnShards(DistributedTest):
    world_size = 2

    @pytest.mark.parametrize("name", ["adamw", "adam", "adagrad", "adamax", "nadam", "radam", "sgd"])
    def test_like_one_rank(self, name):
        single, sharded = tiny_model().to(self.device), shard(tiny_model().to(self.device))
        for model, rank, num_ranks in ((single, 0, 1), (sharded, self.rank, self.world_size)):
            optimizer = build_optimizer(model, 1e-3, name=name, weight_decay=0.1)
            train(model, lambda o=optimizer: (o.step(), o.zero_grad()), 3, rank, num_ranks)
        expected = whole_state(single)
        for key, value in whole_state(sharded).items():
            assert_close(value, expected[key], key)

    def test_muon_orthogonalises_whole_matrices(self):
        """A well-conditioned gradient, because Muon iterates in bf16 and lifts the noise of small directions."""
        generator = torch.Generator().manual_seed(0)
        left, right = (torch.linalg.qr(torch.randn(n, 16, generator=generator)).Q for n in (24, 16))
        gradient = (left * torch.linspace(0.5, 1, 16)) @ right.T
        updates = []
        for wrap in (nn.Module.to, lambda layer, _: fully_shard(layer)):
            layer = nn.Linear(16, 24, bias=False, device=self.device)
            nn.init.zeros_(layer.weight)
            wrap(layer, self.device)
            layer(torch.ones(1, 16, device=self.device)).sum().backward()  # (a gradient of the right kind, to fill)
            mine = gradient.to(self.device)
            if updates:
                layer.weight.grad.to_local().copy_(mine.chunk(self.world_size)[self.rank])
            else:
                layer.weight.grad.copy_(mine)
            build_optimizer(layer, 1.0, name="muon").step()
            updates.append(whole(layer.weight))
        distance = (updates[1] - updates[0]).norm() / updates[0].norm()
        assert distance < tolerance_of(torch.bfloat16).rtol

    def test_plain_and_sharded_parameters_side_by_side(self):
        model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)).to(self.device)
        reference = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)).to(self.device)
        reference.load_state_dict(model.state_dict())
        fully_shard(model[1])
        for each in (model, reference):
            optimizer = build_optimizer(each, 1e-2, weight_decay=0.1)
            for _ in range(3):
                each(torch.ones(3, 6, device=self.device)).square().sum().backward()
                optimizer.step()
                optimizer.zero_grad()
        for key, value in reference.state_dict().items():
            assert_close(whole(model.state_dict()[key]), value, key)
