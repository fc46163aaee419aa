import pytest

from tools.remote.pools import POOLS, Worker, parse_devices, parse_size


def test_worker_tells_its_tests_which_devices_are_theirs():
    assert Worker("gpu", 1, (2, 3)).environ == {"CUDA_VISIBLE_DEVICES": "2,3"}
    assert Worker("trainium", 1, (0,)).environ == {"NEURON_RT_VISIBLE_CORES": "0"}
    assert Worker("gpu", 1).environ == {"CUDA_VISIBLE_DEVICES": ""}  # none, not all of the machine's
    assert Worker("cpu", 1).environ == {}


@pytest.mark.parametrize("pool", POOLS)
def test_worker_tells_the_scheduler_its_pool_and_devices(pool):
    properties = Worker(pool, 2, (0, 1)).properties
    assert properties["Pool"] == pool
    assert properties["DeviceCount"] == "2"
    assert properties["DeviceKind"] == {"cpu": "cpu", "trainium": "neuroncore"}.get(pool, "nvidia")


def test_names():
    assert Worker("multi-gpu", 3).name == "multi-gpu-3"


def test_size():
    assert parse_size("multi-gpu=2") == ("multi-gpu", 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tpu=1", "pool 'tpu': there are cpu, gpu, multi-gpu, trainium"),
        ("gpu", "--pool gpu: say how many workers, such as --pool gpu=2"),
        ("gpu=0", "--pool gpu=0: say how many"),
        ("gpu=x", "--pool gpu=x: say how many"),
    ],
)
def test_wrong_size(text, message):
    with pytest.raises(ValueError, match=message):
        parse_size(text)


def test_devices():
    assert parse_devices("0, 1") == (0, 1)
    assert parse_devices("") == ()


@pytest.mark.parametrize("text", ["a", "0,0", "-1", "0;1"])
def test_wrong_devices(text):
    with pytest.raises(ValueError, match=f"--devices {text}: numbers of devices, each once"):
        parse_devices(text)
