"""Ways to compute the loss, by name; all give the same number."""

from typing import Literal

Loss = Literal["fused", "transformers", "liger"]
"""``fused``: ours, never holds all logits. ``transformers``: theirs, on full logits. ``liger``: the kernel of Liger
(GPU)."""
