"""1, 2 and 4 ranks follow the loss curve of a plain loop on one rank, in every way of sharing and computing."""

import pytest
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from testing.distributed.case import DistributedTest
from testing.tiny_models.models import VOCABULARY
from testing.tiny_models.samples import random_samples
from testing.tolerances.tolerances import assert_close
from trainers.data.jsonl_dataset import JsonlDataset
from trainers.data.pretraining_blocks import PretrainingBlocks, write_pretraining_blocks
from trainers.data.sampler import EpochSampler
from trainers.sft.loop import train
from trainers.sft.sft_cases import LENGTHS, Listener, config_of, worker_of_test, write_case

WAYS = {
    "sharded loading": {"loading": "sharded"},
    "keeps weights": {"reshard_after_forward": False},
    "checkpointing": {"activation_checkpointing": "full"},
    "padded": {"packing": "padded"},
    "transformers' loss": {"loss": "transformers"},
    "one sample a minibatch": {"max_tokens_per_rank": 30, "packing": "greedy"},
}


def reference_losses(folder, config):
    """A loop as one would write it on one page: sample by sample, no packing, no sharding."""
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32, attn_implementation="eager")
    data = JsonlDataset(config.data)
    optimizer = torch.optim.AdamW(model.parameters(), config.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    steps = 2 * -(-len(data) // config.batch_size)
    losses = []
    for epoch in range(2):
        order = list(EpochSampler(len(data), config.seed, epoch))
        for start in range(0, len(order), config.batch_size):
            samples = [data[index] for index in order[start : start + config.batch_size]]
            counted = sum(int((sample["labels"][1:] != -100).sum()) for sample in samples)
            total = 0.0
            for sample in samples:
                logits = model(input_ids=sample["input_ids"][None]).logits[0, :-1]
                loss = torch.nn.functional.cross_entropy(logits, sample["labels"][1:], reduction="sum")
                (loss / counted).backward()
                total += float(loss.detach())
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            rate = 0.5 * config.learning_rate * (1 + torch.cos(torch.tensor(len(losses) / steps * torch.pi)))
            optimizer.param_groups[0]["lr"] = float(rate)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(total / counted)
    return losses, model


def check_against_reference(folder, worker, **changes):
    if worker.rank == 0:
        write_case(folder)
    dist.barrier()
    config = config_of(folder, compute_dtype="float32", **changes)
    listener = Listener()
    outcome = train(config, worker, [listener])
    expected, model = reference_losses(folder, config)
    assert outcome.signal is None and outcome.progress.step == 6 and outcome.progress.epoch == 2
    assert outcome.progress.samples == 26 and outcome.progress.tokens == 2 * 151
    assert_close(torch.tensor(listener.losses), torch.tensor(expected), "losses")
    saved = AutoModelForCausalLM.from_pretrained(folder / "output/models/step-0000000006", dtype=torch.float32)
    assert saved.config.use_cache  # (what training needs is not what a model is saved with)
    for (name, actual), wanted in zip(saved.named_parameters(), model.parameters(), strict=True):
        # (Adam divides by the root of squares: where gradients are rounding, updates are noise of the same size)
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")


class TestRanks(DistributedTest):
    world_size = [1, 2, 4]

    @pytest.mark.parametrize("framework", ["fsdp", "ddp", "deepspeed"])
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
