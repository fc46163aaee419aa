"""What differs between devices, on each: results come back on the CPU, a deadlock is explained."""

import os

import pytest
import torch
import torch.distributed as dist

from testing.distributed.case import DistributedTest, distributed_test
from testing.distributed.launch import launch_procs
from testing.distributed.verdict import RanksFailed
from trainers.parallel.backend import backend_for, hardware_device


def reduced(hardware):
    device = hardware_device(hardware, dist.get_rank())
    x = torch.full((3,), float(dist.get_rank()), device=device)
    dist.all_reduce(x)
    return {"sum": x, "backend": dist.get_backend(), "device": device.type}


def deadlock(hardware):
    x = torch.ones(2, 5, device=hardware_device(hardware, dist.get_rank()))
    if dist.get_rank() == 0:
        dist.all_reduce(x)
        return x.sum().item()
    raise ValueError("no all_reduce here")


@pytest.fixture
def hardware():

    return os.environ.get("TRAINYARD_HARDWARE", "cpu")


@pytest.mark.world_size(2)
def test_results_come_back_on_the_cpu(hardware):
    for result in launch_procs(reduced, 2, hardware):
        assert result["backend"] == backend_for(result["device"])
        torch.testing.assert_close(result["sum"], torch.ones(3), rtol=0, atol=0)


@pytest.mark.world_size(2)
def test_waiting_rank_names_its_collective(hardware):
    with pytest.raises(RanksFailed, match=r"all_reduce\(Float\[2, 5\]\)"):
        launch_procs(deadlock, 2, hardware, timeout=60)


@distributed_test(1)
def test_one_rank(device):
    assert dist.get_backend() == backend_for(device.type)


class TestDevice(DistributedTest):
    world_size = [2, 4]

    def test_each_rank_has_its_own(self):
        devices = [None] * self.world_size
        dist.all_gather_object(devices, str(self.device))
        assert len(set(devices)) == (self.world_size if self.device.type == "cuda" else 1)
