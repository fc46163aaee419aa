"""The fused head gives the loss and gradients of torch's linear and cross_entropy, in every precision."""

import os

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from testing.tolerances.tolerances import assert_close
from trainers.models import linear_cross_entropy as module
from trainers.models.linear_cross_entropy import linear_cross_entropy

DEVICE = torch.device("cuda" if os.environ["TRAINYARD_HARDWARE"] == "gpu" else "cpu")
H, V = 24, 37


def inputs(tokens, dtype, bias):
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator).to(DEVICE, dtype) for shape in ((tokens, H), (V, H), (V,))]
    targets = torch.randint(V, (tokens,), generator=generator).to(DEVICE)
    return [each.requires_grad_() for each in tensors[: 3 if bias else 2]], targets


@pytest.mark.parametrize("tokens", [0, 1, 7, 40])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_loss_and_gradients(monkeypatch, tokens, bias, dtype):
    monkeypatch.setattr(module, "_LOGITS_AT_ONCE", 8 * V)  # 40 tokens are five chunks, 7 a part of one
    tensors, targets = inputs(tokens, dtype, bias)
    hidden, weight, *rest = tensors
    loss = linear_cross_entropy(hidden, weight, targets, *rest)
    gradients = torch.autograd.grad(loss * 0.25, tensors)
    # (torch, too, rounds logits to the dtype of the product before it takes their softmax in fp32)
    expected = functional.cross_entropy(functional.linear(hidden, weight, *rest).float(), targets, reduction="sum")
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-3 if dtype == torch.bfloat16 else 1e-5, atol=0)
    for actual, wanted in zip(gradients, torch.autograd.grad(expected * 0.25, tensors), strict=True):
        assert_close(actual, wanted)


def test_under_autocast():
    tensors, targets = inputs(20, torch.float32, bias=False)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        loss = linear_cross_entropy(*tensors, targets)
        same = functional.cross_entropy(functional.linear(*tensors).float(), targets, reduction="sum")
    torch.testing.assert_close(loss, same, rtol=1e-5, atol=0)
    for actual, wanted in zip(torch.autograd.grad(loss, tensors), torch.autograd.grad(same, tensors), strict=True):
        assert actual.dtype == torch.float32
        assert_close(actual, wanted, computed_in=torch.bfloat16)


def test_only_what_needs_a_gradient_gets_one():
    (hidden, weight), targets = inputs(20, torch.float32, bias=False)
    loss = linear_cross_entropy(hidden, weight.detach(), targets)
    loss.backward()
    assert hidden.grad is not None and weight.grad is None


@pytest.mark.parametrize("enabled", [False, True])
def test_a_validation_makes_no_gradients(enabled):
    """Of the three products that a training takes, it takes one."""
    tensors, targets = inputs(20, torch.float32, bias=True)
    with torch.set_grad_enabled(enabled), FlopCounterMode(display=False) as counter:
        loss = linear_cross_entropy(*tensors[:2], targets, tensors[2])
    assert counter.get_total_flops() == (3 if enabled else 1) * 2 * 20 * H * V
    expected = functional.cross_entropy(functional.linear(*tensors), targets, reduction="sum")
    assert_close(loss.detach(), expected.detach())
