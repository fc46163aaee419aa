"""What a GPU host's tests of attention compare."""

from importlib import metadata

from trainers.attention.backends import Backend

_PACKAGES: dict[str, Backend] = {"flash-attn": "flash_attn", "flash-attn-4": "flash_attn_4"}


def gpu_backends() -> list[Backend]:
    """Return torch's own backends and those of the packages that this host has; none of them is in the lock."""
    installed = [backend for package, backend in _PACKAGES.items() if any(metadata.distributions(name=package))]
    return ["varlen", "sdpa", *installed]
