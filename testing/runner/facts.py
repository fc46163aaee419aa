"""What the tests ran on, kept beside their results."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable
from pathlib import Path

from testing.runner.hardware import Device
from testing.runner.target import Target

FILE_NAME = "device_facts.json"
_PACKAGES = (
    "torch",
    "numpy",
    "pytest",
    "triton",
    "flash-attn",
    "flash-attn-4",
    "transformer-engine",
    "torch-neuronx",
    "neuronx-cc",
)


def write_facts(folder: Path, target: Target, devices: Iterable[Device], world_sizes: Iterable[int]) -> Path:
    """Writes device names, versions and ranks as JSON.

    Args:
        folder: Bazel's TEST_UNDECLARED_OUTPUTS_DIR.
        target: what runs.
        devices: the accelerators it was given.
        world_sizes: numbers of ranks of its tests.

    Returns:
        The file.
    """
    devices = list(devices)
    facts = {
        "target": target.name,
        "tier": target.tier,
        "hardware": target.hardware,
        "devices": target.devices,
        "device_ids": [device.id for device in devices],
        "device_names": [device.name for device in devices] or [_processor()],
        "driver": devices[0].driver if devices else "",
        "world_sizes": sorted(set(world_sizes)),
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "system": platform.release(),
        "versions": {"python": platform.python_version(), **_versions()},
    }
    path = folder / FILE_NAME
    path.write_text(json.dumps(facts, indent=2) + "\n")
    return path


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _processor() -> str:
    """The CPU's model name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
