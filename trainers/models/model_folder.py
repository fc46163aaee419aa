"""What a model's folder has in it."""

from pathlib import Path

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin")


def has_weights(folder: Path) -> bool:
    """Whether a model's folder has weights beside its configuration."""
    return any(path for pattern in _WEIGHTS for path in folder.glob(pattern))
