"""A training that goes on from any of its steps ends bit by bit as one that was never interrupted."""

import os
import shutil

import pytest
import torch
import torch.distributed as dist

from testing.distributed.case import DistributedTest
from trainers.sft.callbacks import Callback
from trainers.sft.loop import train
from trainers.sft.sft_cases import Listener, config_of, weights_of, worker_of_test, write_case

WAYS = {
    "fsdp": {},
    "ddp": {"framework": "ddp"},
    "lora with dropout": {"lora_rank": 2, "lora_dropout": 0.5},
    "osft": {"osft_unfreeze": 0.5},
    "endless order": {"steps": 6},
}
if os.environ["TRAINYARD_HARDWARE"] == "gpu":
    WAYS["as on a GPU"] = {"compute_dtype": "bfloat16", "compile": True, "deterministic": True}


class DiesAtFirstSave(Callback):
    def on_save(self, kind, step, path):
        raise RuntimeError("dead")


def check_from_every_step(folder, worker, **changes):
    if worker.rank == 0:
        write_case(folder)
    dist.barrier()
    config = config_of(folder, save_every_steps=1, keep_last=None, **changes)
    whole = Listener()
    train(config, worker, [whole])
    assert [step for kind, step in whole.saves if kind == "state"] == [1, 2, 3, 4, 5, 6]
    expected = weights_of(folder / "output/models")
    for step in range(1, 6):
        again = folder / f"from-{step}"
        if worker.rank == 0:
            shutil.copytree(folder / f"output/states/step-{step:010d}", again / f"states/step-{step:010d}")
        dist.barrier()
        listener = Listener()
        torch.manual_seed(1234)  # (what is not restored is at least different)
        train(config.model_copy(update={"output": again, "save_every_steps": None}), worker, [listener])
        assert listener.resumed_at == step
        assert listener.losses == whole.losses[step:]
        assert weights_of(again / "models") == expected, f"from step {step}"


class TestResume(DistributedTest):
    world_size = 2

    @pytest.mark.parametrize("way", WAYS)
    def test_at_every_step(self, tmp_path, way):
        check_from_every_step(tmp_path, worker_of_test(self.device), **WAYS[way])

    def test_died_between_the_saves_of_an_epoch(self, tmp_path):
        """A model that is not there when the state after it is will never be."""
        if self.rank == 0:
            write_case(tmp_path)
        dist.barrier()
        worker, config = worker_of_test(self.device), config_of(tmp_path, save_every_epoch=True)
        whole = config.model_copy(update={"output": tmp_path / "whole"})
        with pytest.raises(RuntimeError, match="dead"):
            train(config, worker, [DiesAtFirstSave()])
        train(config, worker)
        train(whole, worker)
        models = [weights_of(folder) for folder in sorted((config.output / "models").glob("step-*"))]
        assert models == [weights_of(whole.output / f"models/step-{step:010d}") for step in (3, 6)]


class TestOrderOfSums(DistributedTest):
    """Sums over more than two ranks depend on their order, which DDP changes after its first backward pass."""

    world_size = 4

    def test_ddp_at_every_step(self, tmp_path):
        check_from_every_step(tmp_path, worker_of_test(self.device), framework="ddp")
