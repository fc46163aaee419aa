from pathlib import Path

import pytest

from testing.runner import hardware
from testing.runner.hardware import Device

NVIDIA_SMI = """\
0, NVIDIA H200, GPU-aaaa, 580.95
1, NVIDIA H200, GPU-bbbb, 580.95
2, NVIDIA H200, GPU-cccc, 580.95
"""
NEURON_LS = '[{"neuron_device": 0, "nc_count": 2}, {"neuron_device": 1, "nc_count": 2}]'


@pytest.fixture
def plant_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a program that prints a text in the place of a vendor's tool."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    def plant(name: str, text: str, status: int = 0) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\ncat <<'END'\n{text.rstrip()}\nEND\nexit {status}\n")
        (tmp_path / name).chmod(0o755)

    return plant


def _ids(kind: str, **env: str) -> list[str]:
    return [device.id for device in hardware.find_devices(kind, env)]


def test_gpus_as_the_driver_lists_them(plant_tool) -> None:
    plant_tool("nvidia-smi", NVIDIA_SMI)
    assert hardware.find_devices("gpu", {})[1] == Device("1", "NVIDIA H200", "GPU-bbbb", "580.95")
    assert _ids("gpu") == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("visible", "ids"), [("2,0", ["2", "0"]), (" 1 ", ["1"]), ("GPU-bb", ["1"]), ("GPU-cccc,0", ["2", "0"]), ("", [])]
)
def test_gpus_set_from_outside(plant_tool, visible: str, ids: list[str]) -> None:
    plant_tool("nvidia-smi", NVIDIA_SMI)
    assert _ids("gpu", CUDA_VISIBLE_DEVICES=visible) == ids


def test_gpu_that_does_not_exist(plant_tool) -> None:
    plant_tool("nvidia-smi", NVIDIA_SMI)
    with pytest.raises(ValueError, match=r"CUDA_VISIBLE_DEVICES=0,7 names '7', but this machine has \['0', '1', '2'\]"):
        hardware.find_devices("gpu", {"CUDA_VISIBLE_DEVICES": "0,7"})


def test_cores_as_the_driver_lists_them(plant_tool) -> None:
    plant_tool("neuron-ls", NEURON_LS)
    assert _ids("trainium") == ["0", "1", "2", "3"]


def test_cores_set_from_outside(plant_tool) -> None:
    plant_tool("neuron-ls", NEURON_LS)
    assert _ids("trainium", NEURON_RT_VISIBLE_CORES="1-3") == ["1", "2", "3"]
    assert _ids("trainium", NEURON_RT_VISIBLE_CORES="3,0") == ["3", "0"]
    with pytest.raises(ValueError, match="names '4'"):
        _ids("trainium", NEURON_RT_VISIBLE_CORES="2-4")


def test_enough_devices_pass_and_too_few_say_what_to_do() -> None:
    found = [Device("0", "NVIDIA H200")]
    hardware.check_devices("//a:b", "gpu", 1, found)
    with pytest.raises(ValueError, match="//a:b needs 2 NVIDIA GPUs, this machine shows 1, NVIDIA H200: run it on"):
        hardware.check_devices("//a:b", "gpu", 2, found)


@pytest.mark.parametrize(
    ("kind", "after"),
    [
        ("cpu", {"CUDA_VISIBLE_DEVICES": ""}),
        ("gpu", {"CUDA_VISIBLE_DEVICES": "1,0"}),
        ("trainium", {"CUDA_VISIBLE_DEVICES": "7", "NEURON_RT_VISIBLE_CORES": "1,0"}),
    ],
)
def test_restrict(kind: str, after: dict[str, str]) -> None:
    env = {"CUDA_VISIBLE_DEVICES": "7"}
    hardware.restrict(env, kind, [] if kind == "cpu" else [Device("1", ""), Device("0", "")])
    assert env == after
