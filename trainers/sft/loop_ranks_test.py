"""1, 2 and 4 ranks follow the loss curve of a plain loop on one rank, in every way of sharing and computing."""

import pytest
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from testing.distributed.case import DistributedTest
from testing.tiny_models.models import VOCABULARY
from testing.tiny_models.samples import random_samples
from testing.tolerances.tolerances import assert_close
from trainers.data.pretraining_blocks import PretrainingBlocks, write_pretraining_blocks
from trainers.sft.loop import train
from trainers.sft.plain_loop import check_against_reference
from trainers.sft.sft_cases import LENGTHS, Listener, config_of, worker_of_test, write_case

WAYS = {
    "sharded loading": {"loading": "sharded"},
    "keeps weights": {"reshard_after_forward": False},
    "checkpointing": {"activation_checkpointing": "full"},
    "padded": {"packing": "padded"},
    "transformers' loss": {"loss": "transformers"},
    "one sample a minibatch": {"max_tokens_per_rank": 30, "packing": "greedy"},
}


class TestRanks(DistributedTest):
    world_size = [1, 2, 4]

    @pytest.mark.parametrize("framework", ["fsdp", "ddp"])
    def test_loss_curve_of_a_plain_loop(self, tmp_path, framework):
        check_against_reference(tmp_path, worker_of_test(self.device), framework=framework)


class TestWays(DistributedTest):
    world_size = 2

    def test_pretraining_blocks(self, tmp_path):
        if self.rank == 0:
            write_case(tmp_path)
            documents = [sample["input_ids"] for sample in random_samples(LENGTHS, VOCABULARY)]
            write_pretraining_blocks(documents, tmp_path / "blocks.npy", 16, eos_token_id=2)
        dist.barrier()
        blocks = PretrainingBlocks(tmp_path / "blocks.npy", 0)
        config = config_of(
            tmp_path, data=tmp_path / "blocks.npy", batch_size=len(blocks), epochs=1, compute_dtype="float32"
        )
        listener = Listener()
        train(config, worker_of_test(self.device), [listener])
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
        total, counted = 0.0, 0
        for block in map(blocks.__getitem__, range(len(blocks))):
            logits = model(input_ids=block["input_ids"][None]).logits[0, :-1].detach()
            total += float(torch.nn.functional.cross_entropy(logits, block["labels"][1:], reduction="sum"))
            counted += int((block["labels"][1:] != -100).sum())
        assert_close(torch.tensor(listener.losses), torch.tensor([total / counted]), "loss")

    @pytest.mark.parametrize("way", WAYS)
    def test_loss_curve_of_a_plain_loop(self, tmp_path, way):
        check_against_reference(tmp_path, worker_of_test(self.device), **WAYS[way])
