"""On a GPU that multiplies fp32 in TF32, projections are taken in fp32 all the same."""

import os

import pytest
import torch
from torch import nn

from trainers.optim.osft_decompose import load_dense_weights
from trainers.optim.osft_linear import OsftLinear
from trainers.optim.osft_projection import project_gradients

DEVICE = {"cpu": "cpu", "gpu": "cuda"}[os.environ["TRAINYARD_HARDWARE"]]


@pytest.fixture(params=["highest", "high", "medium"])
def precision(request):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)


def test_full_precision_whatever_is_set(precision):
    torch.manual_seed(0)
    dense = nn.Linear(256, 256, bias=False, device=DEVICE)
    layer = OsftLinear.in_place_of(dense, 128)
    load_dense_weights({"layer": layer}, {"layer": dense.weight})
    layer.U_low.grad, layer.V_low.grad = torch.randn_like(layer.U_low), torch.randn_like(layer.V_low)
    project_gradients(layer)
    assert torch.get_float32_matmul_precision() == precision
    torch.set_float32_matmul_precision("highest")
    assert (layer.U_high.mT @ layer.U_low.grad).abs().max() < 1e-5
    assert (layer.V_high.mT @ layer.V_low.grad).abs().max() < 1e-5
