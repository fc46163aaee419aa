"""What tests ask of a folder that transformers shall load."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from trainers.checkpoint.module_state import all_tensors

FAMILIES = ("llama", "llama_tied", "gpt2", "gemma", "qwen3_moe")
"""Tiny models with what makes saving hard: tied weights, computed buffers, experts."""


def load_as_users_do(folder: Path) -> PreTrainedModel:
    """Load by transformers, for evaluation; nothing may be missing, unexpected or of another shape."""
    # (with this argument it returns two values, which its annotation does not know)
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    model, info = loaded
    assert not any(info.values()), info
    read: PreTrainedModel = model.eval()
    return read


def assert_equal_weights(actual: PreTrainedModel, expected: PreTrainedModel, dtype: torch.dtype | None = None) -> None:
    """Compare parameters and persistent buffers bit by bit, after ``expected`` is rounded to ``dtype``."""
    tensors, wanted = all_tensors(actual), all_tensors(expected)
    assert tensors.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(tensors[name], tensor.to(dtype or tensor.dtype)), name
