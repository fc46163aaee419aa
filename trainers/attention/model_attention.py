"""Makes a transformers model attend over packed sequences."""

from typing import Any, get_args

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from trainers.attention.backends import Backend
from trainers.attention.packed import packed_attention

# What a model may ask of its attention and the packed kernels do not do: as a model passes it, never ignored.
_UNSUPPORTED = ("softcap", "s_aux", "sinks", "position_bias", "indices", "block_indices")
# Kinds of layers, as transformers names them, that `packed_attention` computes. What others compute (a recurrence, a
# convolution, attention within chunks) would go across the boundaries of sequences.
_PACKED_LAYERS = {"full_attention", "sliding_attention"}


def use_packed_attention(model: PreTrainedModel, backend: Backend) -> None:
    """Let every attention layer of a model use `packed_attention`.

    The model then takes packed rows alone: ``input_ids`` and ``position_ids`` of shape ``[1, T]`` and, by the names
    that transformers gives them, ``cu_seq_lens_q`` and ``max_length_q``.

    Raises:
        ValueError: if the model does not take its attention from transformers' interface, or has layers that would mix
            packed sequences.
    """
    others = set(getattr(model.config.get_text_config(), "layer_types", None) or ()) - _PACKED_LAYERS
    if others or model._is_stateful:
        raise ValueError(
            f"{type(model).__name__} has layers that would mix packed sequences "
            f"({', '.join(sorted(others)) or 'with a state'}): pack with strategy 'padded'"
        )
    # (transformers looks for packages of its own behind a name with "flash" in it)
    name = f"trainyard_packed_{get_args(Backend).index(backend)}"
    AttentionInterface.register(name, _forward_of(backend))
    try:
        model.set_attn_implementation(name)
    except ValueError as error:
        raise ValueError(
            f"{type(model).__name__} cannot attend over packed sequences: {error}; pack with strategy 'padded'"
        ) from error
    if model.config._attn_implementation != name:
        raise ValueError(
            f"{type(model).__name__} does not let its attention be exchanged, so it cannot attend over packed "
            "sequences: pack with strategy 'padded'"
        )


def _forward_of(backend: Backend) -> Any:
    def forward(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        sliding_window: int | None = None,
        *,
        cu_seq_lens_q: Tensor,
        max_length_q: int,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        """Query ``[1, H, T, D]``, key and value ``[1, K, T, D]``; returns ``[1, T, H, D]``."""
        asked = [name for name in _UNSUPPORTED if kwargs.get(name) is not None]
        if asked:
            raise ValueError(f"packed attention does not do {', '.join(asked)}: pack with strategy 'padded'")
        if not kwargs.get("is_causal", getattr(module, "is_causal", True)):
            raise ValueError(f"packed attention is causal, {type(module).__name__} is not: pack with strategy 'padded'")
        if attention_mask is not None:
            raise ValueError("packed attention takes no mask: cu_seq_lens_q says where sequences end")
        device, dtype = query.device.type, query.dtype
        if torch.is_autocast_enabled(device):
            # (rotary embeddings leave fp32, which flash kernels do not take, and autocast does not know them)
            dtype = torch.get_autocast_dtype(device)
        query, key, value = (each[0].transpose(0, 1).to(dtype) for each in (query, key, value))
        attended = packed_attention(
            query,
            key,
            value,
            cu_seq_lens_q,
            max_length_q,
            scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
            backend=backend,
            window=sliding_window,
            dropout=dropout,
        )
        return attended[None], None

    return forward
