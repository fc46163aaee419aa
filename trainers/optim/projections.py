"""The linear layers of a transformer that fine-tuning methods act on, found by name."""

from collections import Counter
from collections.abc import Sequence

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

ATTENTION_AND_MLP = (
    *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),  # Llama, Qwen, Granite, Mistral
    *("qkv_proj", "gate_up_proj"),  # Phi-3 and Phi-4, fused
    *("self_attn.dense", "fc1", "fc2"),  # Phi-1 to Phi-2
    *("c_attn", "c_proj", "c_fc"),  # GPT-2
)
"""Projections of attention and MLP in the architectures that we test; embeddings, norms and output layer are not among
them, nor are the routers and fused experts of mixtures of experts."""


def find_projections(model: nn.Module, patterns: Sequence[str] | None = None) -> dict[str, nn.Linear | Conv1D]:
    """Linear layers whose names end in a pattern.

    Args:
        model: with ``nn.Linear`` layers or, as GPT-2 has, transformers' ``Conv1D``.
        patterns: ends of module names at a dot: ``q_proj`` and ``self_attn.q_proj`` match
            ``layers.0.self_attn.q_proj``, ``proj`` does not. Default :data:`ATTENTION_AND_MLP`.

    Returns:
        Layer by name, in the order of the model.

    Raises:
        ValueError: a given pattern, or all of the default ones, match no linear layer; or the weight of a matched one
            is tied to another layer's.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    wanted = ATTENTION_AND_MLP if patterns is None else tuple(patterns)
    found = {name: layer for name, layer in layers.items() if any(_ends(name, pattern) for pattern in wanted)}
    idle = [pattern for pattern in wanted if not any(_ends(name, pattern) for name in found)]
    if not found or (patterns is not None and idle):
        some = ", ".join(list(layers)[:8]) or "none"
        raise ValueError(
            f"no linear layer of {type(model).__name__} has a name that ends in {', '.join(idle)}; its linear layers "
            f"are {some}{', ...' if len(layers) > 8 else ''}: give patterns that match"
        )
    owners: Counter[Tensor] = Counter(parameter for _, parameter in model.named_parameters(remove_duplicate=False))
    if tied := [name for name, layer in found.items() if owners[layer.weight] > 1]:
        raise ValueError(
            f"the weight of {', '.join(tied)} in {type(model).__name__} is also another layer's, which would not "
            "follow: give patterns that do not match it, or set tie_word_embeddings=False in the model's config.json"
        )
    return found


def _ends(name: str, pattern: str) -> bool:
    return f".{name}".endswith(f".{pattern}")
