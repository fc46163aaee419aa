"""GQAQKVColumnParallelLinear against three plain torch layers: outputs and every gradient, in both layouts."""

import math
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from testing.tolerances.tolerances import assert_close
from trainers.parallel.gqa_layout import GQALayout
from trainers.parallel.gqa_linear import GQAQKVColumnParallelLinear
from trainers.parallel.kv_copies import build_kv_mesh
from trainers.parallel.linear_cases import ACTIVATION, BATCH, PRECISIONS, SEQUENCE, draw, plain_linear
from trainers.parallel.mesh import ParallelSizes, build_mesh
from trainers.parallel.row_linear import RowParallelLinear
from trainers.parallel.sharding import head_rows
from trainers.parallel.tensor_parallel_case import TensorParallelTest

ORDERS = ("tiled", "adjacent")
MODES = ({}, {"gather_output": True}, {"sequence_parallel": True})

# tp: heads (H, K, m). With m > 1, one head per rank, several, the same head twice on a rank, and heads that straddle
# ranks (3 slots a rank, 2 copies) in the adjacent layout; with m = 1 no copies at all.
HEADS = {
    2: ((4, 1, 2), (8, 2, 1), (12, 3, 2), (8, 2, 2)),
    4: ((8, 2, 2), (8, 1, 4), (8, 4, 2), (12, 6, 2), (12, 3, 4), (8, 4, 1)),
    8: ((8, 2, 4), (16, 1, 8), (16, 8, 2), (16, 4, 4), (24, 12, 2), (8, 8, 1)),
}
# 8192 -> 2048 (32 heads of 64) and 400 -> 300 (12 of 25); on 8 ranks 12 heads do not split, so there 304 (16 of 19).
LARGE = {2: (32, 1, 2), 4: (32, 2, 2), 8: (32, 4, 2)}
SMALL = {2: (12, 3, 2, 25), 4: (12, 2, 2, 25), 8: (16, 2, 4, 19)}


class Case(NamedTuple):
    """Whole layers, an input, output gradients, and what plain torch makes of them; features are (.., heads, dim)."""

    weights: tuple
    biases: tuple | None
    x: torch.Tensor
    grad_q: torch.Tensor  # (S, B, K, m, g * D)
    grad_kv: tuple  # (S, B, K, m, D) for k and for v: each copy of a head gets a gradient of its own
    plain: tuple


class TestGQAQKVColumnParallelLinear(TensorParallelTest):
    world_size = [2, 4, 8]
    timeout = 55

    def held(self, x, layout, dim):
        """This rank's part of ``x`` (.., K, m, features, ..), heads and copies flattened in the layout's order."""
        if layout.order == "tiled":
            x = x.transpose(dim, dim + 1)
        return self.part(x.flatten(dim, dim + 1), dim).flatten(dim, dim + 1)

    def case(self, heads, head_dim, in_features, precision, bias):
        num_heads, kv_heads, copies = heads
        rows = (num_heads * head_dim, kv_heads * head_dim, kv_heads * head_dim)
        scale = in_features**-0.5
        weights = tuple(
            draw(i, n, in_features, device=self.device, scale=scale).to(precision.weight) for i, n in enumerate(rows)
        )
        biases = tuple(draw(10 + i, n, device=self.device).to(precision.weight) for i, n in enumerate(rows))
        x = draw(20, SEQUENCE, BATCH, in_features, device=self.device, scale=ACTIVATION).to(precision.input)
        lead = (SEQUENCE, BATCH, kv_heads, copies)
        grad_q = draw(30, *lead, rows[0] // (kv_heads * copies), device=self.device, scale=ACTIVATION)
        grad_kv = tuple(draw(31 + i, *lead, head_dim, device=self.device, scale=ACTIVATION) for i in range(2))
        grads = (grad_q.flatten(2), *(g.double().sum(3).flatten(2) for g in grad_kv))
        plain = tuple(
            plain_linear(x, weights[i], biases[i] if bias else None, grads[i].to(precision.weight)) for i in range(3)
        )
        return Case(weights, biases if bias else None, x, grad_q, grad_kv, plain)

    def compare(self, mesh, kv_mesh, layout, head_dim, case, fuse, mode, low, **options):
        layer = GQAQKVColumnParallelLinear(
            case.x.shape[-1],
            layout,
            head_dim,
            mesh,
            kv_mesh=kv_mesh,
            fuse_qkv=fuse,
            bias=case.biases is not None,
            device="meta",
            dtype=case.weights[0].dtype,
            **mode,
            **options,
        ).to_empty(device=self.device)
        layer.load_full(case.weights, case.biases)
        gather, sequence = "gather_output" in mode, "sequence_parallel" in mode
        x = (self.part(case.x, 0) if sequence else case.x).detach().requires_grad_()
        outputs = layer(x)
        if gather:
            grads = (case.grad_q.flatten(2), *(g.double().sum(3).flatten(2) for g in case.grad_kv))
        else:
            grads = tuple(self.held(g, layout, 2) for g in (case.grad_q, *case.grad_kv))
        torch.autograd.backward(outputs, [g.to(y.dtype) for g, y in zip(grads, outputs, strict=True)])

        grad_x = sum(p.grad_input.double() for p in case.plain).to(x.dtype)
        assert_close(x.grad, self.part(grad_x, 0) if sequence else grad_x, "input gradient", low)
        grad_weights = self.split(layer, "weight", layer.local_sizes)
        if case.biases is not None:
            grad_biases = self.split(layer, "bias", layer.output_sizes if gather else layer.local_sizes)
        for i, name in enumerate("qkv"):
            plain = case.plain[i]
            copied = lambda t, dim, i=i: self.held(self.copies(t, layout, dim, is_query=i == 0), layout, dim)  # noqa: E731
            assert_close(outputs[i], plain.output if gather else copied(plain.output, 2), f"{name}", low)
            assert_close(grad_weights[i], copied(plain.grad_weight, 0), f"weight_{name} gradient", low)
            if case.biases is not None:
                expected = plain.grad_bias if gather else copied(plain.grad_bias, 0)
                assert_close(grad_biases[i], expected, f"bias_{name} gradient", low)

    @staticmethod
    def copies(x, layout, dim, is_query):
        """View features as (K, m, features of a copy): queries are dealt to copies, keys and values repeated."""
        if is_query:
            return x.unflatten(dim, (layout.num_kv_heads, layout.kv_size_multiplier, -1))
        x = x.unflatten(dim, (layout.num_kv_heads, 1, -1))
        return x.repeat_interleave(layout.kv_size_multiplier, dim + 1)

    @staticmethod
    def split(layer, kind, sizes):
        if layer.fuse_qkv:
            return getattr(layer, f"{kind}_qkv").grad.split(sizes)
        return [getattr(layer, f"{kind}_{name}").grad for name in "qkv"]

    def test_outputs_and_gradients(self, subtests):
        mesh = self.set_up()
        num_heads, kv_heads, copies, head_dim = SMALL[self.world_size]
        layouts = [GQALayout(num_heads, kv_heads, self.world_size, copies, order) for order in ORDERS]
        kv_meshes = [build_kv_mesh(mesh, layout) for layout in layouts]
        for precision in PRECISIONS:
            for bias in (True, False):
                case = self.case((num_heads, kv_heads, copies), head_dim, 400, precision, bias)
                for layout, kv_mesh in zip(layouts, kv_meshes, strict=True):
                    for fuse in (False, True):
                        for mode in MODES:
                            with subtests.test(precision=precision, bias=bias, order=layout.order, fuse=fuse, **mode):
                                low = precision.computed_in
                                self.compare(mesh, kv_mesh, layout, head_dim, case, fuse, mode, low)

    def test_8192_to_2048(self, subtests):
        mesh = self.set_up()
        heads = LARGE[self.world_size]
        layouts = [GQALayout(*heads[:2], self.world_size, heads[2], order) for order in ORDERS]
        kv_meshes = [build_kv_mesh(mesh, layout) for layout in layouts]
        for precision in PRECISIONS:
            for bias in (True, False):
                case = self.case(heads, 64, 8192, precision, bias)
                for mode in MODES:
                    # Either layout and form of the weight is met here; all of their pairs are in the test above.
                    layout, kv_mesh, fuse = layouts[bias], kv_meshes[bias], not bias
                    with subtests.test(precision=precision, bias=bias, order=layout.order, fuse=fuse, **mode):
                        self.compare(mesh, kv_mesh, layout, 64, case, fuse, mode, precision.computed_in)

    def test_every_way_to_share_heads_exact_in_fp64(self, subtests):
        mesh = self.set_up()
        for heads in HEADS[self.world_size]:
            for order in ORDERS:
                layout = GQALayout(*heads[:2], self.world_size, heads[2], order)
                kv_mesh = build_kv_mesh(mesh, layout)
                case = self.case(heads, 4, 20, PRECISIONS[0]._replace(weight=torch.float64, input=torch.float64), True)
                for fuse in (False, True):
                    for mode in MODES:
                        with subtests.test(heads=heads, order=order, fuse=fuse, **mode):
                            options = {"reduce_dtype": torch.float64}
                            self.compare(mesh, kv_mesh, layout, 4, case, fuse, mode, torch.float64, **options)

    def test_attention_block(self, subtests):
        """Projection, attention and output projection give what one process gives: the permutations cancel."""
        mesh = self.set_up()
        for heads in HEADS[self.world_size]:
            for order in ORDERS:
                with subtests.test(heads=heads, order=order):
                    num_heads, kv_heads, copies = heads
                    layout = GQALayout(num_heads, kv_heads, self.world_size, copies, order)
                    dim, hidden = 4, 24
                    torch.manual_seed(3)
                    plain = [nn.Linear(hidden, n * dim) for n in (num_heads, kv_heads, kv_heads)]
                    plain = nn.ModuleList([*plain, nn.Linear(num_heads * dim, hidden)]).to(self.device)
                    torch.manual_seed(3)
                    kv_mesh = build_kv_mesh(mesh, layout)
                    qkv = GQAQKVColumnParallelLinear(hidden, layout, dim, mesh, kv_mesh=kv_mesh, device=self.device)
                    out = RowParallelLinear(
                        num_heads * dim, hidden, mesh, input_order=qkv.query_feature_order(), device=self.device
                    )
                    x = draw(4, SEQUENCE, BATCH, hidden, device=self.device)
                    results = []
                    for project, back in ((lambda t: [f(t) for f in plain[:3]], plain[3]), (qkv, out)):  # noqa: B023
                        t = x.clone().requires_grad_()
                        q, k, v = (y.unflatten(-1, (-1, dim)).permute(1, 2, 0, 3) for y in project(t))
                        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
                        y = back(y.permute(2, 0, 1, 3).flatten(2))
                        y.square().mean().backward()
                        results.append((y.detach(), t.grad))
                    assert_close(results[1][0], results[0][0], "output")
                    assert_close(results[1][1], results[0][1], "input gradient")
                    index = head_rows(layout.query_heads(self.rank), dim).to(self.device)
                    assert_close(out.weight.grad, plain[3].weight.grad[:, index], "output projection gradient")

    def test_copies_stay_bit_identical(self):
        """After steps with gradients of their own, all copies of a head are still one value."""
        mesh = self.set_up()
        heads = HEADS[self.world_size][0]
        for order in ORDERS:
            layout = GQALayout(*heads[:2], self.world_size, heads[2], order)
            layer = GQAQKVColumnParallelLinear(
                24, layout, 4, mesh, kv_mesh=build_kv_mesh(mesh, layout), device=self.device, dtype=torch.bfloat16
            )
            optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
            for step in range(3):
                optimizer.zero_grad()
                outputs = layer(draw(step, SEQUENCE, BATCH, 24, device=self.device))
                sum((y * draw(100 + self.rank, *y.shape, device=self.device)).sum() for y in outputs).backward()
                optimizer.step()
            for parameter in (layer.weight_k, layer.weight_v, layer.bias_k, layer.bias_v):
                everyone = [torch.empty_like(parameter) for _ in range(self.world_size)]
                torch.distributed.all_gather(everyone, parameter.detach())
                by_head = {}
                for rank, theirs in enumerate(everyone):
                    for head, value in zip(layout.kv_heads(rank), theirs.split(4), strict=True):
                        assert torch.equal(by_head.setdefault(head, value), value)

    def test_initial_values_do_not_depend_on_the_number_of_ranks(self):
        mesh = self.set_up()
        num_heads, kv_heads, copies = HEADS[self.world_size][0]
        for order in ORDERS:
            layout = GQALayout(num_heads, kv_heads, self.world_size, copies, order)
            kv_mesh = build_kv_mesh(mesh, layout)
            for fuse in (False, True):
                torch.manual_seed(7)
                plain = [nn.Linear(24, n * 4).to(self.device) for n in (num_heads, kv_heads, kv_heads)]
                torch.manual_seed(7)
                layer = GQAQKVColumnParallelLinear(
                    24, layout, 4, mesh, kv_mesh=kv_mesh, fuse_qkv=fuse, device=self.device
                )
                weights = (
                    layer.weight_qkv.split(layer.local_sizes)
                    if fuse
                    else (layer.weight_q, layer.weight_k, layer.weight_v)
                )
                biases = layer.bias_qkv.split(layer.local_sizes) if fuse else (layer.bias_q, layer.bias_k, layer.bias_v)
                for i in range(3):
                    weight = self.held(self.copies(plain[i].weight, layout, 0, i == 0), layout, 0)
                    bias = self.held(self.copies(plain[i].bias, layout, 0, i == 0), layout, 0)
                    assert torch.equal(weights[i], weight)
                    assert torch.equal(biases[i], bias)

    def test_consolidation(self, subtests):
        """Joined shards, taken in the inverse order, are the whole layers again, each key-value head once."""
        mesh = self.set_up()
        for heads in HEADS[self.world_size]:
            for order in ORDERS:
                with subtests.test(heads=heads, order=order):
                    layout = GQALayout(*heads[:2], self.world_size, heads[2], order)
                    case = self.case(heads, 4, 24, PRECISIONS[0], False)
                    kv_mesh = build_kv_mesh(mesh, layout)
                    layer = GQAQKVColumnParallelLinear(
                        24, layout, 4, mesh, kv_mesh=kv_mesh, bias=False, device=self.device
                    )
                    layer.load_full(case.weights)
                    back = (layout.inverse_query_order(), layout.first_slots(), layout.first_slots())
                    for name, full, heads_back in zip("qkv", case.weights, back, strict=True):
                        weight = getattr(layer, f"weight_{name}").detach()
                        shards = [torch.empty_like(weight) for _ in range(self.world_size)]
                        torch.distributed.all_gather(shards, weight)
                        assert torch.equal(torch.cat(shards)[head_rows(heads_back, 4).to(self.device)], full)

    def test_invalid_use_is_an_error(self):
        mesh = self.set_up()
        tp = self.world_size
        layout, adjacent = (GQALayout(2 * tp, tp // math.gcd(tp, 2), tp, 2, order) for order in ORDERS)
        kv_mesh = build_kv_mesh(mesh, layout)
        with pytest.raises(ValueError, match="gather_output=True with sequence_parallel=True"):
            GQAQKVColumnParallelLinear(24, layout, 4, mesh, kv_mesh=kv_mesh, gather_output=True, sequence_parallel=True)
        with pytest.raises(ValueError, match=r"kv_mesh holds ranks None.*tiled.*build_kv_mesh"):
            GQAQKVColumnParallelLinear(24, layout, 4, mesh)
        if tp > 2:
            with pytest.raises(ValueError, match=r"kv_mesh holds ranks \[.*adjacent.*build_kv_mesh"):
                GQAQKVColumnParallelLinear(24, adjacent, 4, mesh, kv_mesh=kv_mesh)
        with pytest.raises(ValueError, match=rf"tp_size={2 * tp}.*tp={tp}"):
            GQAQKVColumnParallelLinear(24, GQALayout(4 * tp, 2 * tp, 2 * tp), 4, mesh)
        with pytest.raises(ValueError, match="pass the whole mesh"):
            build_kv_mesh(build_mesh(self.device.type, ParallelSizes(dp=2, tp=tp // 2))["tp"], layout)


class TestDataParallelReplicas(TensorParallelTest):
    """Replicas have groups of their own."""

    parallel_sizes = {"dp": 2, "tp": 2}

    def test_ranks_share_heads_within_a_replica(self):
        mesh = build_mesh(self.device.type, ParallelSizes(dp=2, tp=2))
        kv_mesh = build_kv_mesh(mesh, GQALayout(4, 1, 2))
        expected = [0, 1] if self.rank < 2 else [2, 3]
        assert kv_mesh.mesh.flatten().tolist() == expected
        assert torch.distributed.get_process_group_ranks(kv_mesh.get_group()) == expected
