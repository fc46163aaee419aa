import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from testing.tolerances.tolerances import assert_close
from trainers.optim.osft_decompose import load_dense_weights
from trainers.optim.osft_linear import OsftLinear
from trainers.optim.osft_projection import project_gradients, project_parameters


def layer_with_gradients(in_features, out_features, rank_high, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    dense = nn.Linear(in_features, out_features, bias=False, dtype=dtype)
    layer = OsftLinear.in_place_of(dense, rank_high)
    load_dense_weights({"layer": layer}, {"layer": dense.weight})
    for factor in (layer.U_low, layer.S_low, layer.V_low):
        factor.grad = torch.randn_like(factor)
    return layer


def without(basis, tensor):
    """What is left of a tensor when a dense projector has taken a subspace out."""
    return (torch.eye(len(basis), dtype=basis.dtype) - basis @ basis.mT) @ tensor


@given(st.integers(2, 10), st.integers(2, 10), st.data())
def test_gradients(in_features, out_features, data):
    layer = layer_with_gradients(
        in_features, out_features, data.draw(st.integers(1, min(in_features, out_features) - 1))
    )
    before = {name: parameter.clone() for name, parameter in layer.named_parameters()}
    u, s, v = (factor.grad.clone() for factor in (layer.U_low, layer.S_low, layer.V_low))
    project_gradients(layer)
    with torch.no_grad():
        assert_close(layer.U_low.grad, without(layer.U_high, u), "U")
        assert_close(layer.V_low.grad, without(layer.V_high, v), "V")
    assert torch.equal(layer.S_low.grad, s)
    assert all(torch.equal(parameter, before[name]) for name, parameter in layer.named_parameters())


@given(st.integers(2, 10), st.integers(2, 10), st.data())
def test_parameters(in_features, out_features, data):
    layer = layer_with_gradients(
        in_features, out_features, data.draw(st.integers(1, min(in_features, out_features) - 1))
    )
    with torch.no_grad():
        for factor in (layer.U_low, layer.S_low, layer.V_low):
            factor.add_(factor.grad)
    before = {name: parameter.detach().clone() for name, parameter in layer.named_parameters()}
    project_parameters(layer)
    after = {name: parameter.detach() for name, parameter in layer.named_parameters()}
    assert_close(after["U_low"], without(before["U_high"], before["U_low"]), "U")
    assert_close(after["V_low"], without(before["V_high"], before["V_low"]), "V")
    for name in ("U_high", "S_high", "V_high", "S_low"):
        assert torch.equal(after[name], before[name]), name


def test_all_layers_of_a_model_are_projected():
    """The overlaps of one layer are added up while the next one's are multiplied: none may be left out."""
    for count in (0, 1, 2, 3):
        model = nn.Sequential(*(layer_with_gradients(6, 7, 3, seed) for seed in range(count)))
        project_gradients(model)
        for layer in model:
            assert_close(layer.U_high.mT @ layer.U_low.grad, torch.zeros(3, 3).double())
            assert_close(layer.V_high.mT @ layer.V_low.grad, torch.zeros(3, 3).double())


def test_layers_without_gradients_are_passed_over():
    model = nn.Sequential(layer_with_gradients(6, 6, 3), layer_with_gradients(6, 6, 3))
    for parameter in model[0].parameters():
        parameter.grad = None
    project_gradients(model)
    assert model[0].U_low.grad is None
    assert_close(model[1].U_high.mT @ model[1].U_low.grad, torch.zeros(3, 3).double())
