"""Causal attention over sequences packed one after the other: each token sees the earlier tokens of its own sequence.

Legend: T tokens of all sequences, H query heads, K key and value heads (a divisor of H), D dimensions of a head.
"""

from importlib.util import find_spec
from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional

from trainers.attention.backends import Backend
from trainers.attention.flash_attn_4 import flash_attention_4


def choose_backend(device: torch.device, dtype: torch.dtype) -> Backend:
    """Return the fastest backend that needs no preparation for tensors of this device and dtype.

    That is flash-attn where it is installed; flash-attn 4, which compiles for many seconds first, is for you to choose.
    """
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return "sdpa"
    # (its extension module: flash-attn 4 comes as flash_attn too)
    return "flash_attn" if find_spec("flash_attn_2_cuda") else "varlen"


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    *,
    scale: float,
    backend: Backend,
    window: int | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attend within each sequence, causally.

    Where torch is told to use deterministic algorithms, gradients are summed in a fixed order.

    Args:
        query: ``[T, H, D]``.
        key: ``[T, K, D]``.
        value: ``[T, K, D]``.
        cu_seqlens: int32 ``[sequences + 1]``, where each sequence starts, then T.
        max_seqlen: tokens of the longest sequence.
        scale: factor of the scores before the softmax, as a rule ``D ** -0.5``.
        backend: see `trainers.attention.backends`.
        window: a token sees itself and the ``window - 1`` tokens before it; default all.
        dropout: share of the attention weights that is dropped.

    Returns:
        ``[T, H, D]``.

    Raises:
        ValueError: if the backend is unknown, not installed or does not do what is asked.
    """
    attended: Tensor
    if backend == "sdpa":
        return _sequence_by_sequence(query, key, value, cu_seqlens, scale, window, dropout)
    if backend == "flash_attn":
        try:
            from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found]  # keep: where the host has it
        except ImportError as error:
            raise ValueError(
                f"attention backend 'flash_attn': the package flash-attn cannot be imported ({error}); install it, or "
                "choose 'varlen', torch's own"
            ) from error
        attended = flash_attn_varlen_func(
            query,
            key,
            value,
            cu_seqlens,
            cu_seqlens,
            max_seqlen,
            max_seqlen,
            dropout_p=dropout,
            softmax_scale=scale,
            causal=True,
            window_size=(-1 if window is None else window - 1, 0),
            deterministic=torch.are_deterministic_algorithms_enabled(),
        )
        return attended
    if backend in ("flash_attn_4", "varlen") and dropout:
        raise ValueError(
            f"attention backend {backend!r} has no dropout, asked for {dropout}: set the attention dropout of the "
            "model's configuration to 0, or choose 'flash_attn' or 'sdpa'"
        )
    if backend == "flash_attn_4":
        return flash_attention_4(query, key, value, cu_seqlens, max_seqlen, scale=scale, window=window)
    if backend == "varlen":
        # (torch.nn.attention.varlen wraps this kernel, with arguments that differ from version to version)
        attended, *_ = torch.ops.aten._flash_attention_forward(
            query,
            key,
            value,
            cu_seqlens,
            cu_seqlens,
            max_seqlen,
            max_seqlen,
            0.0,
            True,
            False,
            scale=scale,
            window_size_left=None if window is None else window - 1,
            window_size_right=None if window is None else 0,
        )
        return attended
    raise ValueError(f"attention backend {backend!r} is unknown: choose one of {', '.join(get_args(Backend))}")


def _sequence_by_sequence(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, scale: float, window: int | None, dropout: float
) -> Tensor:
    lengths = cu_seqlens.diff().tolist()
    rows = []
    # [T, H, D] -> per sequence [H, tokens, D]
    for q, k, v in zip(*(each.split(lengths) for each in (query, key, value)), strict=True):
        mask = None
        if window is not None and len(q) > window:
            mask = q.new_ones(len(q), len(q), dtype=torch.bool).tril().triu(1 - window)
        attended = functional.scaled_dot_product_attention(
            q.transpose(0, 1)[None],
            k.transpose(0, 1)[None],
            v.transpose(0, 1)[None],
            attn_mask=mask,
            is_causal=mask is None,
            dropout_p=dropout,
            scale=scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        rows.append(attended[0].transpose(0, 1))
    return torch.cat(rows)
