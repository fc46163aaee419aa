"""``launch_procs``: results, arguments, errors, devices."""

import functools
import threading

import pytest
import torch
import torch.distributed as dist

from testing.distributed.launch import launch_procs
from testing.distributed.verdict import RanksFailed


def rank_plus(offset):
    return dist.get_rank() + offset


def summed(x):
    dist.all_reduce(x)
    return {"rank": dist.get_rank(), "sum": x, "parameter": torch.nn.Parameter(x)}


def draw():
    return torch.rand(2)


def lock():
    return threading.Lock()


def fail_on(rank):
    if dist.get_rank() == rank:
        raise LookupError(f"rank {rank}")


def write_much():
    print("x" * 200_000)


class OfTwoParts(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def raise_of_two_parts():
    raise OfTwoParts("one", "two")


def skip():
    pytest.skip("from a rank")


def test_results_in_order_of_rank():
    assert launch_procs(rank_plus, 3, 10) == [10, 11, 12]


def test_thirty_two_ranks():
    assert [result["sum"].item() for result in launch_procs(summed, 32, torch.tensor(1.0))] == [32.0] * 32


def test_tensors_travel():
    x = torch.arange(6.0).reshape(2, 3)
    for rank, result in enumerate(launch_procs(summed, 2, x)):
        assert result["rank"] == rank
        torch.testing.assert_close(result["sum"], 2 * x, rtol=0, atol=0)
        assert isinstance(result["parameter"], torch.nn.Parameter)
    torch.testing.assert_close(x, torch.arange(6.0).reshape(2, 3), rtol=0, atol=0)


def test_seed():
    first, second = launch_procs(draw, 2, seed=1)
    (other,) = launch_procs(draw, 1, seed=2)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not torch.equal(first, other)


def test_error_is_of_the_type_that_was_raised():
    with pytest.raises(LookupError, match="1 of 2 ranks failed") as caught:
        launch_procs(fail_on, 2, 1)
    assert isinstance(caught.value, RanksFailed)


def test_error_of_a_type_that_wants_other_arguments():
    with pytest.raises(OfTwoParts, match="(?s)1 of 1 ranks failed.*one and two") as caught:
        launch_procs(raise_of_two_parts, 1)
    assert isinstance(caught.value, RanksFailed)


def test_skip():
    with pytest.raises(pytest.skip.Exception, match="from a rank"):
        launch_procs(skip, 2)


def test_output_is_cut(capfd):
    launch_procs(write_much, 1)
    output = capfd.readouterr().out
    assert output.startswith("[rank 0] (134465 bytes before this are left out)\n")
    assert len(output) < 70_000


def test_result_that_cannot_travel():
    with pytest.raises(RanksFailed, match=r"the returned lock cannot be sent to the test \(TypeError"):
        launch_procs(lock, 2)


def test_argument_that_cannot_travel():
    with pytest.raises(ValueError, match="argument 1 cannot be sent to the ranks: <unlocked"):
        launch_procs(rank_plus, 2, 0, threading.Lock())


@pytest.mark.parametrize("fn", [lambda: None, functools.partial(rank_plus, 1)])
def test_function_that_cannot_be_imported(fn):
    with pytest.raises(ValueError, match="ranks import what they run, and .* cannot be imported"):
        launch_procs(fn, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"world_size": 0}, "world_size is 0"),
        ({"timeout": 0}, "timeout is 0"),
        ({"device": "tpu"}, r"device is 'tpu'; use one of \['cpu', 'cuda', 'xla'\]"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        launch_procs(rank_plus, **({"world_size": 2} | options))


def test_missing_device_is_an_error(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(RuntimeError, match="2 ranks need 2 CUDA devices and this process sees 0"):
        launch_procs(rank_plus, 2, 0, device="cuda")


def test_more_ranks_than_declared_devices(monkeypatch):
    monkeypatch.setenv("TRAINYARD_DEVICES", "2")
    with pytest.raises(ValueError, match="world_size is 4, and this test runs with 2 gpu devices"):
        launch_procs(rank_plus, 4, 0, device="cuda")
