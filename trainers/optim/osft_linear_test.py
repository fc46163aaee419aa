import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers.pytorch_utils import Conv1D

from testing.tolerances.tolerances import assert_close
from trainers.optim.osft_decompose import load_dense_weights
from trainers.optim.osft_linear import OsftLinear

SIZES = st.integers(2, 12)


def factored(layer, rank_high):
    osft = OsftLinear.in_place_of(layer, rank_high)
    load_dense_weights({"layer": osft}, {"layer": layer.weight})
    return osft


def dense_layer(in_features, out_features, bias=True, transposed=False, dtype=torch.float64):
    torch.manual_seed(in_features * 100 + out_features)
    if transposed:
        return Conv1D(out_features, in_features).to(dtype)
    return nn.Linear(in_features, out_features, bias=bias, dtype=dtype)


@given(SIZES, SIZES, st.booleans(), st.booleans(), st.data())
def test_it_is_the_dense_layer(in_features, out_features, bias, transposed, data):
    """Weight, output and all gradients, in fp64; the frozen factors have none."""
    layer = dense_layer(in_features, out_features, bias, transposed)
    osft = factored(layer, data.draw(st.integers(1, min(in_features, out_features) - 1)))
    assert osft.bias is layer.bias
    assert_close(osft.dense_weight(), layer.weight.detach(), "weight")
    x, grad_output = torch.randn(2, 3, in_features).double(), torch.randn(2, 3, out_features).double()
    dense_x, osft_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    assert_close(osft(osft_x), layer(dense_x), "output")
    layer(dense_x).backward(grad_output)
    if layer.bias is not None:
        layer.bias.grad = None
    osft(osft_x).backward(grad_output)
    assert_close(osft_x.grad, dense_x.grad, "input gradient")
    if layer.bias is not None:
        assert_close(osft.bias.grad, grad_output.sum((0, 1)), "bias gradient")
    gradient = layer.weight.grad.mT if transposed else layer.weight.grad
    with torch.no_grad():
        assert_close(osft.U_low.grad, gradient @ osft.V_low * osft.S_low, "gradient of U")
        assert_close(osft.V_low.grad, gradient.mT @ osft.U_low * osft.S_low, "gradient of V")
        assert_close(osft.S_low.grad, (osft.U_low * (gradient @ osft.V_low)).sum(0), "gradient of S")
    assert [name for name, p in osft.named_parameters() if p.grad is None] == ["U_high", "S_high", "V_high"]


@given(SIZES, SIZES, st.data())
def test_the_largest_directions_are_frozen(in_features, out_features, data):
    rank_high = data.draw(st.integers(1, min(in_features, out_features) - 1))
    osft = factored(dense_layer(in_features, out_features), rank_high)
    assert osft.rank_high == rank_high == osft.U_high.shape[1] == osft.V_high.shape[1]
    assert osft.S_high.min() >= osft.S_low.max() >= 0
    for both in (torch.cat([osft.U_high, osft.U_low], 1), torch.cat([osft.V_high, osft.V_low], 1)):
        assert_close((both.mT @ both).detach(), torch.eye(both.shape[1]).double(), "orthonormal")


def test_fp32_reconstruction():
    """A weight of a usual size: an SVD is exact up to some roundings of the largest singular value."""
    layer = dense_layer(512, 384, dtype=torch.float32)
    osft = factored(layer, 128)
    error = (osft.dense_weight() - layer.weight).detach().abs().max()
    assert error < 4 * torch.finfo(torch.float32).eps * float(osft.S_high[0])


def test_bf16_compute():
    layer = dense_layer(64, 48, dtype=torch.float32)
    osft = factored(layer, 24)
    x = torch.randn(8, 64)
    with torch.autocast("cpu", torch.bfloat16):
        y = osft(x)
    assert y.dtype == torch.bfloat16
    assert_close(y.float(), layer(x), computed_in=torch.bfloat16)
    y.float().square().sum().backward()
    assert osft.U_low.grad.dtype == torch.float32 and osft.U_low.grad.abs().sum() > 0
