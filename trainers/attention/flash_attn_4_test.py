"""Flash-attn 4 as an operator: what it is given and gives back, with attention written out in place of its kernels.

(The kernels themselves are compared on GPUs, with those of the other backends: `packed_test`.)
"""

import sys

import pytest
import torch

from testing.tolerances.tolerances import assert_close
from trainers.attention import flash_attn_4
from trainers.attention.flash_attn_4 import flash_attention_4
from trainers.attention.packed import packed_attention

H, K, D = 4, 2, 32
CU_SEQLENS = torch.tensor([0, 5, 6, 14], dtype=torch.int32)


class WrittenOut:
    """The package's two functions, by the arguments that it gives them, on the CPU."""

    def _flash_attn_fwd(self, q, k, v, *, return_lse, **sequences):
        assert return_lse
        k, v = repeated(q, k, v)
        scores = self.scores(q, k, **sequences)
        return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).contiguous(), scores.logsumexp(-1)

    def _flash_attn_bwd(self, q, k, v, out, dout, lse, *, deterministic=False, **sequences):
        """Dao 2023, algorithm 2, in one block."""
        keys, values = repeated(q, k, v)
        weights = (self.scores(q, keys, **sequences) - lse[..., None]).exp()
        of_weights = torch.einsum("qhd,khd->hqk", dout, values)
        of_scores = weights * (of_weights - (dout * out).sum(-1).T[..., None]) * sequences["softmax_scale"]
        dq = torch.einsum("hqk,khd->qhd", of_scores, keys)
        dk = torch.einsum("hqk,qhd->khd", of_scores, q).unflatten(1, (k.shape[1], -1)).sum(2)
        dv = torch.einsum("hqk,qhd->khd", weights, dout).unflatten(1, (k.shape[1], -1)).sum(2)
        return tuple(torch.empty_like(each).copy_(grad) for each, grad in zip((q, k, v), (dq, dk, dv), strict=True))

    def scores(
        self,
        q,
        k,
        *,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        softmax_scale,
        causal,
        window_size_left,
    ):
        """[H, T, T]; a token sees ``window_size_left`` tokens before it, and itself."""
        assert causal
        assert torch.equal(cu_seqlens_q, cu_seqlens_k)
        assert max_seqlen_q == max_seqlen_k == cu_seqlens_q.diff().max()
        tokens = torch.arange(len(q))
        sequence = torch.bucketize(tokens, cu_seqlens_q[1:], right=True)
        distance = tokens[:, None] - tokens[None]
        seen = (distance >= 0) & (sequence[:, None] == sequence[None])
        if window_size_left is not None:
            seen &= distance <= window_size_left
        return softmax_scale * torch.einsum("qhd,khd->hqk", q, k).masked_fill(~seen, -torch.inf)


def repeated(q, k, v):
    return (each.repeat_interleave(q.shape[1] // each.shape[1], 1) for each in (k, v))


@pytest.fixture
def kernels(monkeypatch):
    monkeypatch.setitem(sys.modules, flash_attn_4._KERNELS, WrittenOut())


def inputs(cu_seqlens=CU_SEQLENS):
    """Views of ``[H, T, D]``, as models give them."""
    torch.manual_seed(0)
    return [torch.randn(heads, int(cu_seqlens[-1]), D).transpose(0, 1).requires_grad_() for heads in (H, K, K)]


@pytest.mark.parametrize("window", [None, 1, 3])
def test_attention_and_gradients_are_those_of_sdpa(kernels, window):
    results = []
    for backend in ("flash_attn_4", "sdpa"):
        rows = inputs()
        attended = packed_attention(*rows, CU_SEQLENS, 8, scale=0.3, backend=backend, window=window)
        results.append([attended, *torch.autograd.grad(attended.sin().sum(), rows)])
    for name, actual, expected in zip("oqkv", *results, strict=True):
        assert_close(actual, expected, name)


def test_a_fixed_order_of_sums_is_asked_for(kernels, monkeypatch):
    asked = []
    backward = WrittenOut._flash_attn_bwd
    monkeypatch.setattr(
        WrittenOut,
        "_flash_attn_bwd",
        lambda *args, deterministic, **kwargs: asked.append(deterministic) or backward(*args, **kwargs),
    )
    for deterministic in (False, True):
        torch.use_deterministic_algorithms(deterministic)
        try:
            flash_attention_4(*inputs(), CU_SEQLENS, 8, scale=0.3).sum().backward()
        finally:
            torch.use_deterministic_algorithms(False)
    assert asked == [False, True]


def test_the_operator_keeps_the_rules_of_torch(kernels):
    torch.library.opcheck(flash_attn_4._forward, (*inputs(), CU_SEQLENS, 8, 0.3, None))


def test_one_graph_for_any_number_of_tokens(kernels):
    torch._dynamo.reset()
    compiled = torch.compile(flash_attention_4, fullgraph=True, dynamic=True, backend="aot_eager")
    torch._dynamo.utils.counters.clear()
    for ends in ([5, 6, 14, 15], [9, 20], [3, 6, 10, 19]):
        cu_seqlens = torch.tensor([0, *ends], dtype=torch.int32)
        results = []
        for attention in (compiled, flash_attention_4):
            rows = inputs(cu_seqlens)
            attended = attention(*rows, cu_seqlens, int(cu_seqlens.diff().max()), scale=0.3)
            results.append([attended, *torch.autograd.grad(attended.sin().sum(), rows)])
        for name, actual, expected in zip("oqkv", *results, strict=True):
            assert_close(actual, expected, name)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_what_it_cannot_do_is_refused(kernels, monkeypatch):
    odd = torch.zeros(14, 2, 80)
    with pytest.raises(ValueError, match="heads of 32, 64, ... 256 dimensions, these have 80: choose 'varlen'"):
        flash_attention_4(odd, odd, odd, CU_SEQLENS, 8, scale=1.0)
    monkeypatch.setitem(sys.modules, flash_attn_4._KERNELS, None)
    with pytest.raises(ValueError, match="the package flash-attn-4 cannot be imported .*; install it, or choose"):
        flash_attention_4(*inputs(), CU_SEQLENS, 8, scale=1.0)
