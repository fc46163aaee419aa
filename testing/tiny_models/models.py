"""Random models of a few thousand parameters, one per architecture that tests need."""

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GemmaConfig,
    Glm4MoeConfig,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

VOCABULARY = 61
"""Rows of the embedding: not a multiple of 8, nor of any number of ranks."""

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 42,  # (shards of it are uneven on four ranks)
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
_CONFIGS: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, {}),
    "llama_tied": (LlamaConfig, {"tie_word_embeddings": True}),
    "mistral": (MistralConfig, {"sliding_window": 5}),
    "qwen2": (Qwen2Config, {}),
    "qwen3": (Qwen3Config, {"head_dim": 8}),
    "granite": (GraniteConfig, {"logits_scaling": 4.0, "residual_multiplier": 0.5}),
    "gpt2": (GPT2Config, {"num_key_value_heads": 4, "n_inner": 42, "loss_type": "ForCausalLM", **_NO_DROPOUT}),
    "phi": (PhiConfig, {"num_key_value_heads": 4}),
    "phi3": (Phi3Config, {}),
    "gemma": (GemmaConfig, {"head_dim": 8}),
    "gemma2": (Gemma2Config, {"head_dim": 8}),
    "qwen3_moe": (
        Qwen3MoeConfig,
        {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    ),
    "glm4_moe": (
        Glm4MoeConfig,
        {"head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1}
        | {"topk_group": 1, "first_k_dense_replace": 1},
    ),
}

ARCHITECTURES = ("llama", "llama_tied", "mistral", "qwen2", "qwen3", "granite", "gpt2", "phi")
"""Those whose training is tested; models of the others are made for what reads, writes or changes layers."""


def tiny_config(architecture: str = "llama", **changes: Any) -> PreTrainedConfig:
    """Return the configuration of a tiny model: two blocks, hidden size 32, four heads.

    Its weights are drawn ten times as wide as usual (``initializer_range=0.02``): with the usual ones attention is
    nearly uniform, and a mistake in it hardly seen.
    """
    kind, own = _CONFIGS[architecture]
    return kind(**{**_SIZES, "initializer_range": 0.2, **own, **changes})


def tiny_model(architecture: str = "llama", seed: int = 0, **changes: Any) -> PreTrainedModel:
    """Return a tiny model in fp32 and training mode, the same for the same arguments."""
    config = tiny_config(architecture, **changes)
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    model.train()
    return model
