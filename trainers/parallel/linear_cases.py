"""What the tests of parallel linear layers share: dtype settings, sizes, and the plain torch layer to compare with."""

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SEQUENCE, BATCH = 8, 2
"""Tokens of a test input, (S, B, H); S divides by every number of ranks."""

# A dot product of 8192 fp32 terms that comes out near 1 carries a rounding error near 1e-6, the whole absolute bound:
# measured, torch.nn.Linear itself misses its own fp64 result by 1.1 bounds. Activations of a real layer are smaller;
# at a quarter the rounding is a third of the bound, and a bug is still a hundred thousand bounds.
ACTIVATION = 0.25
"""Standard deviation of test inputs and output gradients."""


class Precision(NamedTuple):
    """One of the three dtype settings."""

    weight: torch.dtype
    input: torch.dtype

    @property
    def computed_in(self) -> torch.dtype:
        """The dtype that sets the tolerance: products are taken in the dtype of the weight."""
        return self.weight


PRECISIONS = (
    Precision(torch.float32, torch.float32),
    Precision(torch.bfloat16, torch.bfloat16),
    Precision(torch.bfloat16, torch.float32),
)


class Plain(NamedTuple):
    """Output and gradients of a plain torch layer; no bias, no gradient of it."""

    output: Tensor
    grad_input: Tensor
    grad_weight: Tensor
    grad_bias: Tensor | None


@functools.cache
def draw(seed: int, *shape: int, device: torch.device, scale: float = 1.0) -> Tensor:
    """The same standard normal values, times ``scale``, on every rank and every kind of device: fp32, drawn once."""
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale).to(device)


def plain_linear(x: Tensor, weight: Tensor, bias: Tensor | None, grad_output: Tensor) -> Plain:
    """Run ``torch.nn.functional.linear`` forward and backward, in the dtype of the weight."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    bias = None if bias is None else bias.detach().requires_grad_()
    y = F.linear(x.to(weight.dtype), weight, bias)
    y.backward(grad_output.to(y.dtype))
    assert x.grad is not None and weight.grad is not None
    return Plain(y.detach(), x.grad, weight.grad, None if bias is None else bias.grad)


def run_layer(layer: torch.nn.Module, x: Tensor, grad_output: Tensor) -> tuple[Tensor, Tensor | None]:
    """Run a layer forward and backward; its output and the gradient of its input."""
    x = x.detach().requires_grad_()
    y = layer(x)
    y.backward(grad_output.to(y.dtype))
    return y.detach(), x.grad
