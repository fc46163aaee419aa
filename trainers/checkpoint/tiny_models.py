"""Tiny models of several families, with what makes saving them hard: tied weights, computed buffers, experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3MoeConfig,
)

from trainers.checkpoint.module_state import all_tensors

VOCABULARY = 61  # no multiple of any number of ranks
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**_SIZES),
    "llama tied": LlamaConfig(**_SIZES, tie_word_embeddings=True),
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "gemma": GemmaConfig(**_SIZES, head_dim=8),
    "qwen3 moe": Qwen3MoeConfig(**_SIZES, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16),
}


def build(family: str, seed: int = 0) -> PreTrainedModel:
    """Return a model of ``CONFIGS`` with random weights, for evaluation."""
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIGS[family])
    return model.eval()


def build_on_meta(family: str) -> PreTrainedModel:
    """Return a model of ``CONFIGS`` without memory."""
    with torch.device("meta"):
        return build(family)


def logits(model: torch.nn.Module) -> torch.Tensor:
    """Return what the model says to all of its vocabulary, ``[1, VOCABULARY, VOCABULARY]``."""
    device = next(model.parameters()).device
    with torch.no_grad():
        result: torch.Tensor = model(torch.arange(VOCABULARY, device=device)[None]).logits
    return result


def shard(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """Wrap by FSDP2 over all ranks, block by block."""
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    blocks: Any = model.base_model.h if hasattr(model.base_model, "h") else model.base_model.layers
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def load_as_users_do(folder: Path) -> PreTrainedModel:
    """Load by transformers, for evaluation; nothing may be missing, unexpected or of another shape."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    loaded: PreTrainedModel = model.eval()
    return loaded


def assert_equal_weights(actual: PreTrainedModel, expected: PreTrainedModel, dtype: torch.dtype | None = None) -> None:
    """Compare parameters and persistent buffers bit by bit, after ``expected`` is rounded to ``dtype``."""
    tensors, wanted = all_tensors(actual), all_tensors(expected)
    assert tensors.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(tensors[name], tensor.to(dtype or tensor.dtype)), name
