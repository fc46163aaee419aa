"""A training that goes on from any of its steps ends bit by bit as one that was never interrupted."""

import shutil

import pytest
import torch
import torch.distributed as dist

from testing.distributed.case import DistributedTest
from trainers.sft.loop import train
from trainers.sft.sft_cases import Listener, config_of, worker_of_test, write_case

WAYS = {
    "fsdp": {},
    "ddp": {"framework": "ddp"},
    "lora with dropout": {"lora_rank": 2, "lora_dropout": 0.5},
    "osft": {"osft_unfreeze": 0.5},
    "endless order": {"steps": 6},
}


def models_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


class TestResume(DistributedTest):
    world_size = 2

    @pytest.mark.parametrize("way", WAYS)
    def test_at_every_step(self, tmp_path, way):
        if self.rank == 0:
            write_case(tmp_path)
        dist.barrier()
        config = config_of(tmp_path, save_every_steps=1, keep_last=None, **WAYS[way])
        worker, whole = worker_of_test(self.device), Listener()
        train(config, worker, [whole])
        assert [step for kind, step in whole.saves if kind == "state"] == [1, 2, 3, 4, 5, 6]
        expected = models_of(tmp_path / "output/models")
        for step in range(1, 6):
            again = tmp_path / f"from-{step}"
            if self.rank == 0:
                shutil.copytree(tmp_path / f"output/states/step-{step:010d}", again / f"states/step-{step:010d}")
            dist.barrier()
            listener = Listener()
            torch.manual_seed(1234)  # (what is not restored is at least different)
            train(config.model_copy(update={"output": again}), worker, [listener])
            assert listener.resumed_at == step
            assert listener.losses == whole.losses[step:]
            assert models_of(again / "models") == expected, f"from step {step}"
