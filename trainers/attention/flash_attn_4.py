"""FlashAttention 4 over packed sequences, as an operator of torch, which a compiled graph can hold.

The package `flash-attn-4` is Python that makes its kernels at the first call, which the compiler cannot trace.
Source of the algorithm: Dao 2023, arXiv:2307.08691; on Hopper, Shah et al. 2024, arXiv:2407.08608.

Legend: T tokens of all sequences, H query heads, K key and value heads, D dimensions of a head.
"""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

_KERNELS = "flash_attn.cute.interface"


def flash_attention_4(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    *,
    scale: float,
    window: int | None = None,
) -> Tensor:
    """Attend within each sequence, causally; see `trainers.attention.packed` for the arguments and the result.

    Raises:
        ValueError: if the package is not installed, or has no kernel for heads of this size.
    """
    # (of 4.0.0b14: its compiler fails on the backward pass of others)
    if query.shape[-1] % 32 or query.shape[-1] > 256:
        raise ValueError(
            f"attention backend 'flash_attn_4' has kernels for heads of 32, 64, ... 256 dimensions, these have "
            f"{query.shape[-1]}: choose 'varlen' or 'sdpa'"
        )
    attended: Tensor = _forward(query, key, value, cu_seqlens, max_seqlen, scale, window)[0]
    return attended


def _kernels() -> Any:
    try:
        return import_module(_KERNELS)
    except ImportError as error:
        raise ValueError(
            f"attention backend 'flash_attn_4': the package flash-attn-4 cannot be imported ({error}); install it, or "
            "choose 'varlen', which torch brings"
        ) from error


def _sequences(cu_seqlens: Tensor, max_seqlen: int, scale: float, window: int | None) -> dict[str, Any]:
    return {
        "cu_seqlens_q": cu_seqlens,
        "cu_seqlens_k": cu_seqlens,
        "max_seqlen_q": max_seqlen,
        "max_seqlen_k": max_seqlen,
        "softmax_scale": scale,
        "causal": True,
        "window_size_left": None if window is None else window - 1,
    }


# (its name must have "attention" in it: `trainers.models.blocks` keeps what such operators return)
@torch.library.custom_op("trainyard::flash_attention_4", mutates_args=())
def _forward(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, max_seqlen: int, scale: float, window: int | None
) -> tuple[Tensor, Tensor]:
    """Return attention ``[T, H, D]`` and the log-sum-exp of scores ``[H, T]``, fp32."""
    sequences = _sequences(cu_seqlens, max_seqlen, scale, window)
    attended, log_sum_exp = _kernels()._flash_attn_fwd(query, key, value, return_lse=True, **sequences)
    return attended, log_sum_exp


@_forward.register_fake
def _(query: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    tokens, heads, _ = query.shape
    return query.new_empty(query.shape), query.new_empty((heads, tokens), dtype=torch.float32)


@torch.library.custom_op("trainyard::flash_attention_4_backward", mutates_args=())
def _backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attended: Tensor,
    log_sum_exp: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    scale: float,
    window: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value."""
    sequences = _sequences(cu_seqlens, max_seqlen, scale, window)
    of_query, of_key, of_value = _kernels()._flash_attn_bwd(
        *(query, key, value, attended, gradient, log_sum_exp),
        deterministic=torch.are_deterministic_algorithms_enabled(),
        **sequences,
    )
    return of_query, of_key, of_value


@_backward.register_fake
def _(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, cu_seqlens, *ctx.options = inputs
    ctx.save_for_backward(query, key, value, *output, cu_seqlens)


def _differentiate(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *_backward(gradient, *ctx.saved_tensors, *ctx.options), None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_keep)
