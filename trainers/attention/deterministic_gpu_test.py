"""On GPUs gradients have the same bits each time, where torch is told to use deterministic algorithms."""

import pytest
import torch

from trainers.attention.gpu_backends import gpu_backends
from trainers.attention.packed import packed_attention

LENGTHS = [3000, 1096]  # (many blocks, which kernels otherwise add up in the order in which they end)
H, K, D = 6, 2, 64


@pytest.fixture
def deterministic(monkeypatch):
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("backend", gpu_backends())
def test_the_same_bits_five_times(deterministic, backend):
    cu_seqlens = torch.tensor([0, LENGTHS[0], sum(LENGTHS)], dtype=torch.int32, device="cuda")
    torch.manual_seed(0)
    inputs = [
        torch.randn(sum(LENGTHS), heads, D, device="cuda", dtype=torch.bfloat16).requires_grad_() for heads in (H, K, K)
    ]
    first, *others = (gradients(inputs, cu_seqlens, backend) for _ in range(5))
    for each in others:
        for name, actual, expected in zip("qkv", each, first, strict=True):
            assert torch.equal(actual, expected), name


def gradients(inputs, cu_seqlens, backend):
    attended = packed_attention(*inputs, cu_seqlens, max(LENGTHS), scale=0.125, backend=backend)
    return torch.autograd.grad(attended.square().sum(), inputs)
