"""With tp = 1, as in plain data parallel runs, every layer is the plain torch layer, bit for bit."""

import torch
import torch.nn.functional as F
from torch import nn

from testing.distributed.case import DistributedTest
from trainers.parallel.column_linear import ColumnParallelLinear
from trainers.parallel.cross_entropy import vocab_parallel_cross_entropy
from trainers.parallel.embedding import ParallelEmbedding
from trainers.parallel.gqa_layout import GQALayout
from trainers.parallel.gqa_linear import GQAQKVColumnParallelLinear
from trainers.parallel.mesh import ParallelSizes, build_mesh
from trainers.parallel.row_linear import RowParallelLinear


class TestSingleRank(DistributedTest):
    world_size = 1

    def seeded(self, build):
        torch.manual_seed(7)
        return build()

    def same(self, layer, plain):
        results = []
        for each in (layer, plain):
            x = self.hidden()
            y = each(x)
            y.square().sum().backward()
            results.append((y.detach(), x.grad, each.weight.grad, each.bias.grad))
        for ours, theirs in zip(*results, strict=True):
            assert torch.equal(ours, theirs)

    def hidden(self):
        return torch.randn(6, 2, 16, generator=torch.Generator().manual_seed(1)).to(self.device).requires_grad_()

    def test_linear_layers(self, subtests):
        mesh = build_mesh(self.device.type, ParallelSizes())
        plain = self.seeded(lambda: nn.Linear(16, 24).to(self.device))
        # Where the bias is added after the product, a rounding of its own comes with it.
        for layer, mode, reference in (
            (ColumnParallelLinear, {}, plain),
            (ColumnParallelLinear, {"sequence_parallel": True}, plain),
            (ColumnParallelLinear, {"stride": 2}, plain),
            (ColumnParallelLinear, {"gather_output": True}, _BiasAfter(plain)),
            (RowParallelLinear, {"input_is_parallel": False}, _BiasAfter(plain)),
            (RowParallelLinear, {"sequence_parallel": True}, _BiasAfter(plain)),
        ):
            with subtests.test(layer=layer.__name__, **mode):
                plain.zero_grad()
                ours = self.seeded(lambda: layer(16, 24, mesh, device=self.device, **mode))  # noqa: B023
                self.same(ours, reference)

    def test_gqa(self, subtests):
        mesh = build_mesh(self.device.type, ParallelSizes())
        plain = self.seeded(lambda: [nn.Linear(16, n * 4).to(self.device) for n in (8, 2, 2)])
        for order in ("tiled", "adjacent"):
            with subtests.test(order=order):
                layout = GQALayout(8, 2, 1, order=order)
                layer = self.seeded(lambda: GQAQKVColumnParallelLinear(16, layout, 4, mesh, device=self.device))  # noqa: B023
                for y, each in zip(layer(self.hidden()), plain, strict=True):
                    assert torch.equal(y, each(self.hidden()))

    def test_embedding(self):
        mesh = build_mesh(self.device.type, ParallelSizes())
        plain = self.seeded(lambda: nn.Embedding(12, 8, padding_idx=3).to(self.device))
        layer = self.seeded(lambda: ParallelEmbedding(12, 8, mesh, padding_idx=3, device=self.device))
        ids = torch.arange(12, device=self.device).view(2, 6)
        for each in (plain, layer):
            each(ids).square().sum().backward()
        assert torch.equal(layer(ids), plain(ids))
        assert torch.equal(layer.weight.grad, plain.weight.grad)
        layer.resize(13)
        assert torch.equal(layer.weight[:12], plain.weight)

    def test_cross_entropy(self):
        mesh = build_mesh(self.device.type, ParallelSizes())
        logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(1)).to(self.device)
        target = torch.tensor([0, 6, -100, 3, 3], device=self.device)
        loss = vocab_parallel_cross_entropy(logits, target, mesh)
        torch.testing.assert_close(loss, F.cross_entropy(logits, target), rtol=1e-6, atol=0)


class _BiasAfter(nn.Module):
    """A plain linear layer that adds its bias after the product."""

    def __init__(self, linear):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x):
        return F.linear(x, self.weight) + self.bias
