"""Where fp32 matrices may be multiplied in TF32 or bf16, OSFT multiplies in fp32 all the same."""

import os

import pytest
import torch
from torch import nn

from trainers.optim.full_precision import full_precision
from trainers.optim.osft_decompose import load_dense_weights
from trainers.optim.osft_linear import OsftLinear
from trainers.optim.osft_projection import project_gradients

DEVICE = {"cpu": "cpu", "gpu": "cuda"}[os.environ["TRAINYARD_HARDWARE"]]
CUDA, CPU = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul


@pytest.fixture(params=["all at once", "each by itself"])
def low_precision(request):
    """Both of torch's ways to allow it; after one of them, asking in the other is an error."""
    if request.param == "all at once":
        torch.set_float32_matmul_precision("medium")
    else:
        CUDA.fp32_precision, CPU.fp32_precision = "tf32", "bf16"
    yield
    torch.set_float32_matmul_precision("highest")
    CUDA.fp32_precision = CPU.fp32_precision = "none"


def test_projection_and_dense_weight(low_precision):
    torch.manual_seed(0)
    dense = nn.Linear(256, 256, bias=False, device=DEVICE)
    layer = OsftLinear.in_place_of(dense, 128)
    load_dense_weights({"layer": layer}, {"layer": dense.weight})
    layer.U_low.grad, layer.V_low.grad = torch.randn_like(layer.U_low), torch.randn_like(layer.V_low)
    project_gradients(layer)
    weight = layer.dense_weight()
    with full_precision():
        assert (layer.U_high.mT @ layer.U_low.grad).abs().max() < 1e-5
        assert (layer.V_high.mT @ layer.V_low.grad).abs().max() < 1e-5
    assert (weight - dense.weight).abs().max() < 1e-6


def test_restored_even_after_an_error(low_precision):
    with pytest.raises(ZeroDivisionError), full_precision():
        assert (CUDA.fp32_precision, CPU.fp32_precision) == ("ieee", "ieee")
        _ = 1 / 0
    assert (CUDA.fp32_precision, CPU.fp32_precision) == ("tf32", "bf16")
