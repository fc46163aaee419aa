"""The gradients that the optimizer gets: equal however a batch is cut, shared among ranks and recomputed."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from testing.distributed.case import DistributedTest
from testing.tolerances.tolerances import assert_close
from trainers.sft.loop import train
from trainers.sft.sft_cases import Listener, config_of, worker_of_test, write_case


def first_gradients(folder, worker, framework, **changes):
    """Return the number of minibatches of the first batch and the whole gradients of the first step."""
    if worker.rank == 0:
        write_case(folder)
    dist.barrier()
    taken = []

    def take(optimizer, args, kwargs):
        for parameter in (each for group in optimizer.param_groups for each in group["params"]):
            assert isinstance(parameter, DTensor) == (framework == "fsdp")
            gradient = parameter.grad
            taken.append((gradient.full_tensor() if isinstance(gradient, DTensor) else gradient).clone())

    handle = register_optimizer_step_pre_hook(take)
    listener = Listener()
    config = config_of(
        folder, framework=framework, compute_dtype="float32", compile=False, steps=1, resume=False, **changes
    )
    train(config, worker, [listener])
    handle.remove()
    return listener.steps[0]["minibatches"], taken


def assert_alike(actual, expected):
    for at, (one, other) in enumerate(zip(actual, expected, strict=True)):
        assert_close(one, other, f"gradient {at}")


@pytest.mark.parametrize("framework", ["fsdp", "ddp"])
class TestGradients(DistributedTest):
    world_size = 2

    def test_many_small_minibatches_are_one_big_one(self, tmp_path, framework):
        worker = worker_of_test(self.device)
        one, whole = first_gradients(tmp_path, worker, framework, max_tokens_per_rank=200)
        many, parts = first_gradients(tmp_path, worker, framework, max_tokens_per_rank=30, packing="greedy")
        assert one == 1 and many > 1
        assert_alike(parts, whole)

    def test_equal_on_all_ranks(self, tmp_path, framework):
        _, gradients = first_gradients(tmp_path, worker_of_test(self.device), framework, max_tokens_per_rank=30)
        for gradient in gradients:
            assert gradient.any()
            of_rank0 = gradient.clone()
            dist.broadcast(of_rank0, 0)
            assert torch.equal(gradient, of_rank0)

    def test_recomputing_changes_nothing(self, tmp_path, framework):
        worker = worker_of_test(self.device)
        _, expected = first_gradients(tmp_path, worker, framework, activation_checkpointing=0)
        for asked in ({"activation_checkpointing": "full"}, {"memory_limit_gb": 1e-6}, {}):
            _, gradients = first_gradients(tmp_path, worker, framework, **asked)
            assert_alike(gradients, expected)
