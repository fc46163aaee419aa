"""Backend and device names."""

import pytest
import torch

from trainers.parallel.backend import backend_for, hardware_device


@pytest.mark.parametrize(("device_type", "backend"), [("cpu", "gloo"), ("cuda", "nccl"), ("xla", "xla")])
def test_backend_for(device_type, backend):
    assert backend_for(device_type) == backend


@pytest.mark.parametrize("device_type", ["gpu", "CPU", "", "mps"])
def test_unknown_device_type_is_named(device_type):
    with pytest.raises(ValueError, match=rf"'{device_type}'.*cpu.*cuda.*xla"):
        backend_for(device_type)


@pytest.mark.parametrize(
    ("hardware", "device"),
    [("cpu", torch.device("cpu")), ("gpu", torch.device("cuda", 3)), ("trainium", torch.device("xla", 0))],
)
def test_hardware_device_of_local_rank_3(hardware, device):
    assert hardware_device(hardware, 3) == device


def test_every_hardware_has_a_backend():
    for hardware in ("cpu", "gpu", "trainium"):
        assert backend_for(hardware_device(hardware, 0).type)


def test_unknown_hardware_is_named():
    with pytest.raises(ValueError, match=r"'cuda'.*cpu.*gpu.*trainium"):
        hardware_device("cuda", 0)


def test_negative_rank_is_named():
    with pytest.raises(ValueError, match="-1"):
        hardware_device("gpu", -1)
