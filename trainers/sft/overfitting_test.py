"""A training learns by heart what it sees often: a single sample, and a small batch."""

import json

import pytest
import torch.distributed as dist

from testing.distributed.case import DistributedTest
from testing.tiny_models.models import VOCABULARY
from testing.tiny_models.samples import random_samples
from trainers.sft.loop import train
from trainers.sft.sft_cases import Listener, config_of, worker_of_test, write_case

WAYS = {
    "full": {},
    "lora": {"lora_rank": 8},
    "osft": {"osft_unfreeze": 0.5},
}


def losses_of(folder, worker, lengths, **changes):
    if worker.rank == 0:
        # (LoRA's head is frozen, and a normalised state has a given length: the best one for each token of the single
        # sample leaves a loss of 0.153 beside a head of 32 columns, of 0.0006 beside one of 64)
        write_case(folder, hidden_size=64)
        with (folder / "data.jsonl").open("w") as file:
            for sample in random_samples(lengths, VOCABULARY):
                file.write(json.dumps({name: tokens.tolist() for name, tokens in sample.items()}) + "\n")
    dist.barrier()
    config = config_of(folder, batch_size=len(lengths), steps=40, warmup_steps=2, compile=False, **changes)
    listener = Listener()
    train(config, worker, [listener])
    return listener.losses


class TestOverfitting(DistributedTest):
    world_size = 1

    @pytest.mark.parametrize("way", WAYS)
    def test_a_single_sample(self, tmp_path, way):
        losses = losses_of(tmp_path, worker_of_test(self.device), [12], **WAYS[way])
        assert losses[-1] < min(0.1, 0.5 * losses[0]), losses

    @pytest.mark.parametrize("way", WAYS)
    def test_a_small_batch(self, tmp_path, way):
        losses = losses_of(tmp_path, worker_of_test(self.device), [9, 14, 5, 17], **WAYS[way])
        assert losses[-1] < 0.3 * losses[0], losses
