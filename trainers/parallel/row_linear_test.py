"""RowParallelLinear against torch.nn.Linear: outputs and every gradient."""

import pytest
import torch
from torch import nn

from testing.tolerances.tolerances import assert_close
from trainers.parallel.linear_cases import ACTIVATION, BATCH, PRECISIONS, SEQUENCE, draw, plain_linear, run_layer
from trainers.parallel.mesh import ParallelSizes, build_mesh
from trainers.parallel.row_linear import RowParallelLinear
from trainers.parallel.sum_cases import cancelling
from trainers.parallel.tensor_parallel_case import TensorParallelTest

MODES = ({}, {"input_is_parallel": False}, {"sequence_parallel": True})
SIZES = ((8192, 2048), (400, 300))


class TestRowParallelLinear(TensorParallelTest):
    world_size = [2, 4, 8]
    timeout = 55

    def test_outputs_and_gradients(self, subtests):
        mesh = self.set_up()
        for in_features, out_features in SIZES:
            weight = draw(1, out_features, in_features, device=self.device, scale=in_features**-0.5)
            bias = draw(2, out_features, device=self.device)
            x = draw(3, SEQUENCE, BATCH, in_features, device=self.device, scale=ACTIVATION)
            grad_output = draw(4, SEQUENCE, BATCH, out_features, device=self.device, scale=ACTIVATION)
            for precision in PRECISIONS:
                typed = x.to(precision.input)
                for b in (bias.to(precision.weight), None):
                    w = weight.to(precision.weight)
                    plain = plain_linear(typed, w, b, grad_output)
                    for mode in MODES:
                        with subtests.test(
                            sizes=(in_features, out_features), precision=precision, bias=b is not None, **mode
                        ):
                            self.compare(mesh, w, b, typed, grad_output, plain, precision.computed_in, mode)

    def compare(self, mesh, weight, bias, x, grad_output, plain, low, mode, **options):
        layer = RowParallelLinear(
            weight.shape[1],
            weight.shape[0],
            mesh,
            bias=bias is not None,
            device="meta",
            dtype=weight.dtype,
            **mode,
            **options,
        ).to_empty(device=self.device)
        layer.load_full(weight, bias)
        whole, sequence = "input_is_parallel" in mode, "sequence_parallel" in mode
        y, grad_x = run_layer(
            layer, x if whole else self.part(x, -1), self.part(grad_output, 0) if sequence else grad_output
        )
        assert_close(y, self.part(plain.output, 0) if sequence else plain.output, "output", low)
        assert_close(grad_x, plain.grad_input if whole else self.part(plain.grad_input, -1), "input gradient", low)
        assert_close(layer.weight.grad, self.part(plain.grad_weight, 1), "weight gradient", low)
        if bias is not None:
            assert_close(layer.bias.grad, plain.grad_bias, "bias gradient", low)

    def test_exact_in_fp64(self):
        """The algorithm, without rounding to hide behind."""
        mesh = self.set_up()
        weight, bias = draw(1, 12, 16, device=self.device).double(), draw(2, 12, device=self.device).double()
        x, grad_output = draw(3, 8, 1, 16, device=self.device).double(), draw(4, 8, 1, 12, device=self.device).double()
        plain = plain_linear(x, weight, bias, grad_output)
        for mode in MODES:
            self.compare(mesh, weight, bias, x, grad_output, plain, torch.float64, mode, reduce_dtype=torch.float64)

    def test_permuted_input_features(self):
        """Columns follow the order in which features arrive, as after a grouped-query projection."""
        mesh = self.set_up()
        order = torch.randperm(16, generator=torch.Generator().manual_seed(5))
        torch.manual_seed(7)
        plain = nn.Linear(16, 12).to(self.device)
        torch.manual_seed(7)
        layer = RowParallelLinear(16, 12, mesh, input_order=order, device=self.device)
        x = draw(3, 5, 16, device=self.device)
        assert_close(layer(self.part(x[:, order.to(self.device)], -1)), plain(x), "output")

    def test_initial_values_do_not_depend_on_the_number_of_ranks(self, subtests):
        mesh = self.set_up()
        for dtype in (torch.float32, torch.bfloat16):
            with subtests.test(dtype=dtype):
                torch.manual_seed(7)
                plain = nn.Linear(64, 40).to(self.device, dtype)
                torch.manual_seed(7)
                layer = RowParallelLinear(64, 40, mesh, device=self.device, dtype=dtype)
                assert torch.equal(layer.weight, self.part(plain.weight, 1))
                assert torch.equal(layer.bias, plain.bias)

    def test_invalid_use_is_an_error(self):
        mesh = self.set_up()
        with pytest.raises(ValueError, match="sequence_parallel=True needs input_is_parallel=True"):
            RowParallelLinear(16, 16, mesh, sequence_parallel=True, input_is_parallel=False)
        with pytest.raises(ValueError, match="input_order needs input_is_parallel=True"):
            RowParallelLinear(16, 16, mesh, input_order=torch.arange(16), input_is_parallel=False)
        with pytest.raises(ValueError, match="permutation of the 16"):
            RowParallelLinear(16, 16, mesh, input_order=torch.zeros(16, dtype=torch.long))
        with pytest.raises(ValueError, match=rf"in_features is 401.*{self.world_size}"):
            RowParallelLinear(401, 300, mesh)
        layer = RowParallelLinear(16, 16, mesh, device=self.device)
        with pytest.raises(ValueError, match=rf"\(2, 16\).*end in {16 // self.world_size}"):
            layer(torch.zeros(2, 16, device=self.device))
        layer = RowParallelLinear(16, 16, mesh, sequence_parallel=True, device=self.device)
        with pytest.raises(ValueError, match=rf"\(9, 1, 16\).*9.*{self.world_size}"):
            layer(torch.zeros(9, 1, 16 // self.world_size, device=self.device))


class TestReduceDtype(TensorParallelTest):
    world_size = [4, 8]

    def test_partial_sums_are_added_in_reduce_dtype(self):
        mesh = build_mesh(self.device.type, ParallelSizes(tp=self.world_size))
        partial = cancelling(self.world_size).to(self.device)
        for sequence in (False, True):
            layer = RowParallelLinear(
                self.world_size,
                partial.shape[1],
                mesh,
                bias=False,
                sequence_parallel=sequence,
                device=self.device,
                dtype=torch.bfloat16,
            )
            layer.load_full(partial.T)
            y = layer(torch.ones(self.world_size, 1, device=self.device, dtype=torch.bfloat16))
            assert (y == 1).all()
