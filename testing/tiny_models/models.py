"""Random models of a few thousand parameters, one per architecture that the trainers know."""

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

VOCABULARY = 61
"""Rows of the embedding: not a multiple of 8, nor of any number of ranks."""

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED: dict[str, Any] = {**_SIZES, "num_key_value_heads": 2}

ARCHITECTURES: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, _GROUPED),
    "llama_tied": (LlamaConfig, {**_GROUPED, "tie_word_embeddings": True}),
    "mistral": (MistralConfig, {**_GROUPED, "sliding_window": 5}),
    "qwen2": (Qwen2Config, _GROUPED),
    "qwen3": (Qwen3Config, {**_GROUPED, "head_dim": 8}),
    "granite": (GraniteConfig, {**_GROUPED, "logits_scaling": 4.0, "residual_multiplier": 0.5}),
    "gpt2": (
        GPT2Config,
        {
            "vocab_size": VOCABULARY,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "loss_type": "ForCausalLM",
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "phi": (PhiConfig, _SIZES),
}


def tiny_config(architecture: str = "llama", **changes: Any) -> PreTrainedConfig:
    """Return the configuration of a tiny model: two blocks, hidden size 32, four heads."""
    kind, sizes = ARCHITECTURES[architecture]
    return kind(**{**sizes, **changes})


def tiny_model(architecture: str = "llama", seed: int = 0, **changes: Any) -> PreTrainedModel:
    """Return a tiny model in fp32 and training mode, the same for the same arguments.

    Its weights are drawn ten times as wide as usual: with the usual ones attention is nearly uniform, and a mistake in
    it hardly seen.
    """
    config = tiny_config(architecture, initializer_range=0.2, **changes)
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    model.train()
    return model
