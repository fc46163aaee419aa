"""Which accelerators this machine shows, found without importing torch."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

# What restricts a process to some devices.
VISIBLE = {"gpu": "CUDA_VISIBLE_DEVICES", "trainium": "NEURON_RT_VISIBLE_CORES"}

_UNITS = {"gpu": "NVIDIA GPU", "trainium": "NeuronCore"}
_NEURON_CORES_PER_DEVICE = 2


@dataclasses.dataclass(frozen=True)
class Device:
    """One accelerator."""

    id: str  # as VISIBLE names it: an index
    name: str
    uuid: str = ""
    driver: str = ""


def find_devices(hardware: str, env: Mapping[str, str]) -> list[Device]:
    """Lists the devices of one kind that this process may use.

    Args:
        hardware: "gpu" or "trainium".
        env: a VISIBLE variable in it restricts the list, and orders it.

    Returns:
        The devices, empty if there are none.

    Raises:
        ValueError: VISIBLE names a device that the machine does not have.
    """
    present = _nvidia_gpus() if hardware == "gpu" else _neuron_cores()
    asked = env.get(VISIBLE[hardware])
    if asked is None:
        return present
    wanted = [word.strip() for word in asked.split(",") if word.strip()]
    if hardware == "trainium":
        wanted = [core for word in wanted for core in _core_range(word)]
    found = []
    for word in wanted:
        matches = [d for d in present if word == d.id or (d.uuid and len(word) > 4 and d.uuid.startswith(word))]
        if not matches:
            raise ValueError(
                f"{VISIBLE[hardware]}={asked} names {word!r}, but this machine has "
                f"{[d.id for d in present] or 'no ' + _UNITS[hardware]}; unset it or name devices that exist"
            )
        found.append(matches[0])
    return found


def check_devices(target: str, hardware: str, devices: int, found: list[Device]) -> None:
    """Raises ValueError if there are fewer devices than a test needs."""
    if len(found) < devices:
        unit = _UNITS[hardware]
        raise ValueError(
            f"{target} needs {devices} {unit}{'s' * (devices > 1)}, this machine shows {len(found)}"
            f"{''.join(f', {d.name}' for d in found)}: run it on a host that has them, or leave out the --config "
            f"(--hardware under plain pytest) that claims this one does"
        )


def _nvidia_gpus() -> list[Device]:
    tool = shutil.which("nvidia-smi")
    if tool:
        query = [tool, "--query-gpu=index,name,uuid,driver_version", "--format=csv,noheader"]
        listed = subprocess.run(query, capture_output=True, text=True)
        if listed.returncode == 0:
            rows = [[cell.strip() for cell in line.split(",")] for line in listed.stdout.splitlines()]
            return [Device(row[0], row[1], row[2], row[3]) for row in rows if len(row) == 4]
    devices = []
    for information in Path("/proc/driver/nvidia/gpus").glob("*/information"):
        facts = dict(re.findall(r"^([^:\n]+):\s*(.*)$", information.read_text(), re.MULTILINE))
        if "Device Minor" in facts:
            devices.append(Device(facts["Device Minor"], facts.get("Model", "NVIDIA"), facts.get("GPU UUID", "")))
    return sorted(devices, key=lambda device: int(device.id))


def _neuron_cores() -> list[Device]:
    counts: list[int] = []
    tool = shutil.which("neuron-ls")
    if tool:
        listed = subprocess.run([tool, "--json-output"], capture_output=True, text=True)
        if listed.returncode == 0:
            counts = [int(device["nc_count"]) for device in json.loads(listed.stdout)]
    if not counts:
        numbered = [path for path in Path("/dev").glob("neuron*") if re.fullmatch(r"neuron\d+", path.name)]
        for path in sorted(numbered, key=lambda path: int(path.name.removeprefix("neuron"))):
            cores = Path("/sys/devices/virtual/neuron_device") / path.name / "core_count"
            counts.append(int(cores.read_text()) if cores.exists() else _NEURON_CORES_PER_DEVICE)
    return [Device(str(core), "NeuronCore") for core in range(sum(counts))]


def _core_range(word: str) -> list[str]:
    """Cores of "3" or "0-3"."""
    first, _, last = word.partition("-")
    if not first.isdigit() or (last and not last.isdigit()):
        return [word]
    return [str(core) for core in range(int(first), int(last or first) + 1)]


def restrict(env: dict[str, str] | os._Environ[str], hardware: str, devices: list[Device]) -> None:
    """Lets the processes started from here see these devices and no others; on "cpu" no GPU at all."""
    if hardware == "cpu":
        env[VISIBLE["gpu"]] = ""
    else:
        env[VISIBLE[hardware]] = ",".join(device.id for device in devices)
