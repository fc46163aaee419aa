"""Norm and clipping of gradients that are spread over ranks, in every way that FSDP2 spreads them."""

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from testing.distributed.case import DistributedTest
from testing.tiny_models.shards import whole
from testing.tolerances.tolerances import assert_close
from trainers.optim.gradients import clip_gradients


class TestGradientsOnRanks(DistributedTest):
    world_size = [2, 4]

    def test_mixed_placements(self):
        """Uneven shards, shards that some ranks have nothing of, replicas (of which one counts), plain tensors."""
        line = init_device_mesh(self.device.type, (self.world_size,))
        plane = init_device_mesh(self.device.type, (2, self.world_size // 2))
        torch.manual_seed(0)
        whole_gradients = [torch.randn(shape, device=self.device) for shape in ((5, 3), (1, 4), (6,), (7, 2), (3, 3))]
        placed = [
            distribute_tensor(whole_gradients[0], line, [Shard(0)]),
            distribute_tensor(whole_gradients[1], line, [Shard(0)]),
            distribute_tensor(whole_gradients[2].clone(), line, [Replicate()]),
            distribute_tensor(whole_gradients[3], plane, [Replicate(), Shard(0)]),
            whole_gradients[4].clone(),
        ]
        parameters = [nn.Parameter(torch.zeros_like(gradient)) for gradient in placed]
        for parameter, gradient in zip(parameters, placed, strict=True):
            parameter.grad = gradient
        norm = clip_gradients(parameters, 1.0)
        expected = torch.cat([gradient.flatten() for gradient in whole_gradients]).norm()
        assert type(norm) is torch.Tensor and not isinstance(norm, DTensor)
        assert_close(norm, expected, "norm")
        for parameter, gradient in zip(parameters, whole_gradients, strict=True):
            assert_close(whole(parameter.grad), gradient / expected, "gradient")

    def test_one_broken_shard_is_seen_by_every_rank(self):
        mesh = init_device_mesh(self.device.type, (self.world_size,))
        gradient = torch.ones(8, device=self.device)
        gradient[-1] = torch.nan
        parameter = nn.Parameter(distribute_tensor(torch.zeros_like(gradient), mesh, [Shard(0)]))
        parameter.grad = distribute_tensor(gradient, mesh, [Shard(0)])
        assert clip_gradients([parameter], 1.0).isnan()
