import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from testing.tiny_models.models import tiny_model
from testing.tiny_models.training import backward, token_ids
from testing.tolerances.tolerances import assert_close
from trainers.optim.gradient_step import GradientStep
from trainers.optim.optimizer import build_optimizer
from trainers.optim.osft import apply_osft, insert_osft_layers
from trainers.optim.osft_linear import osft_layers
from trainers.optim.schedule import build_schedule


def step_of(model, name="sgd", max_norm=1.0, learning_rate=0.1):
    optimizer = build_optimizer(model, learning_rate, name=name)
    schedule = build_schedule(optimizer, "linear", num_training_steps=10)
    return GradientStep(model, optimizer, schedule, max_norm), optimizer


def test_one_update():
    """The norm before clipping; a step of clipped gradients; then the next learning rate and no gradients."""
    layer = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(layer.weight)
    update, optimizer = step_of(layer)
    layer.weight.grad = torch.tensor([[3.0, 4.0]])
    assert float(update()) == pytest.approx(5.0)
    assert_close(layer.weight.detach(), torch.tensor([[-0.06, -0.08]]))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.09)
    assert layer.weight.grad is None
    layer.weight.grad = torch.tensor([[0.3, 0.4]])
    assert float(update()) == pytest.approx(0.5)
    assert_close(layer.weight.detach(), torch.tensor([[-0.087, -0.116]]))


def test_clipping_comes_after_the_projection():
    """A gradient that but for a small part lies in the frozen subspace: that part is not made smaller."""
    model = nn.Sequential(nn.Linear(4, 4, bias=False))
    apply_osft(model, 0.5, ["0"])
    layer = model[0]
    update, _ = step_of(model)
    before, free = layer.U_low.detach().clone(), layer.U_low.detach() @ torch.randn(2, 2)
    layer.U_low.grad = 0.5 * free / free.norm() + 100 * layer.U_high.detach() @ torch.randn(2, 2)
    layer.V_low.grad, layer.S_low.grad = torch.zeros_like(layer.V_low), torch.zeros_like(layer.S_low)
    assert float(update()) == pytest.approx(0.5, rel=1e-3)  # (a hundredfold has cancelled out)
    torch.testing.assert_close(layer.U_low.detach(), before - 0.05 * free / free.norm(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["adamw", "adagrad", "muon"])
def test_20_steps_stay_orthogonal(name):
    model = tiny_model()
    apply_osft(model, 0.5)
    update, _ = step_of(model, name, learning_rate=1e-2)
    frozen = {key: value.clone() for key, value in model.state_dict().items() if key.endswith("_high")}
    losses = []
    for _ in range(20):
        losses.append(backward(model, token_ids(4, 0)))
        update()
    assert losses[-1] < 0.9 * losses[0]
    for layer in osft_layers(model).values():
        assert (layer.U_low.mT @ layer.U_high).abs().max() < 1e-5
        assert (layer.V_low.mT @ layer.V_high).abs().max() < 1e-5
    assert all(torch.equal(model.state_dict()[key], value) for key, value in frozen.items())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["adamw", "muon"])  # decided on the device, on the host
def test_a_norm_that_is_not_finite_skips_the_update(name, bad):
    model = tiny_model()
    update, optimizer = step_of(model, name)
    for _ in range(2):
        backward(model, token_ids(2, 0))
        update()
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"]))
    backward(model, token_ids(2, 0))
    model.lm_head.weight.grad[3, 5] = bad
    assert not update().isfinite()
    assert float(update.num_skipped) == 1
    after = (model.state_dict(), optimizer.state_dict()["state"])
    assert_equal(after[0], before[0])
    for number, state in before[1].items():
        assert_equal(after[1][number], state)
    assert all(parameter.grad is None for parameter in model.parameters())
    backward(model, token_ids(2, 0))
    update()
    assert float(update.num_skipped) == 1
    assert not torch.equal(model.lm_head.weight, before[0]["lm_head.weight"])


def test_the_first_update_may_be_skipped():
    for name in ("adamw", "muon"):
        model = tiny_model()
        update, _ = step_of(model, name)
        backward(model, token_ids(2, 0))
        model.lm_head.weight.grad[0, 0] = float("nan")
        update()
        assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_adamw_makes_the_host_wait_for_nothing():
    """Fake tensors have no values: reading one on the host is an error."""
    with FakeTensorMode():
        model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        assert insert_osft_layers(model, 0.5, ["0"])
        update, _ = step_of(model, "adamw")
        model(torch.ones(2, 4)).sum().backward()
        assert update().shape == ()


def assert_equal(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name


@pytest.mark.parametrize("max_norm", [0.0, -1.0, float("nan")])
def test_bounds(max_norm):
    with pytest.raises(ValueError, match=f"max_norm must be > 0, got {max_norm}"):
        step_of(nn.Linear(2, 2), max_norm=max_norm)
