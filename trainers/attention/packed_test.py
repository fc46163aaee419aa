"""Packed attention is attention over each sequence by itself: against the formula, written out, in fp64."""

import os
import sys

import pytest
import torch

from testing.tolerances.tolerances import assert_close
from trainers.attention.gpu_backends import gpu_backends
from trainers.attention.packed import choose_backend, packed_attention

LENGTHS = [5, 1, 17, 8]
GPU = os.environ["TRAINYARD_HARDWARE"] == "gpu"
H, K, D = 6, 2, 32 if GPU else 16  # (32 is the least that flash-attn 4 takes)


@pytest.fixture
def hardware_backends():
    """Device, dtype and backends of the hardware that this test was declared for."""
    if not GPU:
        return torch.device("cpu"), torch.float32, ["sdpa"]
    return torch.device("cuda"), torch.bfloat16, gpu_backends()


def reference(query, key, value, scale, window):
    """Softmax of scores, sequence by sequence: [T, H, D]."""
    rows = []
    for q, k, v in zip(query.split(LENGTHS), key.split(LENGTHS), value.split(LENGTHS), strict=True):
        distance = torch.arange(len(q))[:, None] - torch.arange(len(q))[None]
        hidden = (distance < 0) | (distance >= (window or len(q)))
        heads = []
        for head in range(H):
            scores = scale * q[:, head] @ k[:, head * K // H].T
            heads.append(scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v[:, head * K // H])
        rows.append(torch.stack(heads, 1))
    return torch.cat(rows)


@pytest.mark.parametrize("window", [None, 4])
def test_attention_and_gradients(hardware_backends, window):
    device, dtype, backends = hardware_backends
    torch.manual_seed(0)
    whole = [torch.randn(sum(LENGTHS), heads, D).to(dtype) for heads in (H, K, K)]
    exact = [each.double().requires_grad_() for each in whole]
    seen_by_loss = torch.randn(sum(LENGTHS), H, D).to(dtype)
    expected = reference(*exact, 0.3, window)
    expected_gradients = torch.autograd.grad(expected, exact, seen_by_loss.double())
    cu_seqlens = torch.tensor([0, 5, 6, 23, 31], dtype=torch.int32, device=device)
    for backend in backends:
        inputs = [each.to(device).requires_grad_() for each in whole]
        attended = packed_attention(*inputs, cu_seqlens, 17, scale=0.3, backend=backend, window=window)
        gradients = torch.autograd.grad(attended, inputs, seen_by_loss.to(device))
        for name, actual, wanted in zip("oqkv", (attended, *gradients), (expected, *expected_gradients), strict=True):
            assert_close(actual.cpu(), wanted.to(dtype), f"{backend} {name}")


def test_flash_attn_4_alone_is_not_flash_attn(tmp_path, monkeypatch):
    """Both are packages of the name flash_attn."""
    (tmp_path / "flash_attn" / "cute").mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "flash_attn_2_cuda", raising=False)
    assert choose_backend(torch.device("cuda"), torch.bfloat16) == "varlen"


def test_backend_follows_device_and_dtype():
    cuda = torch.device("cuda")
    assert choose_backend(torch.device("cpu"), torch.bfloat16) == "sdpa"
    assert choose_backend(cuda, torch.float32) == "sdpa"
    assert choose_backend(cuda, torch.bfloat16) in ("flash_attn", "varlen")


def test_what_a_backend_cannot_do_is_refused():
    row = torch.zeros(3, 2, 8)
    cu_seqlens = torch.tensor([0, 3], dtype=torch.int32)
    for backend in ("varlen", "flash_attn_4"):
        with pytest.raises(ValueError, match=f"'{backend}' has no dropout, asked for 0.1: set the attention dropout"):
            packed_attention(row, row, row, cu_seqlens, 3, scale=1.0, backend=backend, dropout=0.1)
    with pytest.raises(ValueError, match="'ring' is unknown: choose one of flash_attn, flash_attn_4, varlen, sdpa"):
        packed_attention(row, row, row, cu_seqlens, 3, scale=1.0, backend="ring")
