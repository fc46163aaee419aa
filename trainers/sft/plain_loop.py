"""The training that every way of sharing and computing must amount to: a plain loop, sample by sample, on one rank."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, PreTrainedModel

from testing.tolerances.tolerances import assert_close
from trainers.data.jsonl_dataset import JsonlDataset
from trainers.data.minibatch import IGNORE_INDEX
from trainers.data.sampler import EpochSampler
from trainers.sft.config import TrainConfig
from trainers.sft.loop import train
from trainers.sft.sft_cases import Listener, config_of, write_case
from trainers.sft.worker import Worker


def reference_losses(folder: Path, config: TrainConfig) -> tuple[list[float], PreTrainedModel]:
    """Train by a loop as one would write it on one page, sample by sample; return its losses and its model."""
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32, attn_implementation="eager")
    data = JsonlDataset(config.data)
    optimizer = torch.optim.AdamW(model.parameters(), config.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    steps = 2 * -(-len(data) // config.batch_size)
    losses: list[float] = []
    for epoch in range(2):
        order = list(EpochSampler(len(data), config.seed, epoch))
        for start in range(0, len(order), config.batch_size):
            samples = [data[index] for index in order[start : start + config.batch_size]]
            pairs = [(torch.as_tensor(each["input_ids"]), torch.as_tensor(each["labels"])[1:]) for each in samples]
            counted = sum(int((labels != IGNORE_INDEX).sum()) for _, labels in pairs)
            total = 0.0
            for input_ids, labels in pairs:
                logits = model(input_ids=input_ids[None]).logits[0, :-1]
                loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
                (loss / counted).backward()
                total += float(loss.detach())
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            rate = 0.5 * config.learning_rate * (1 + torch.cos(torch.tensor(len(losses) / steps * torch.pi)))
            optimizer.param_groups[0]["lr"] = float(rate)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(total / counted)
    return losses, model


def check_against_reference(folder: Path, worker: Worker, **changes: Any) -> None:
    """Train what `write_case` writes, and compare losses and saved weights with those of `reference_losses`."""
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
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=2e-5, msg=partial("{}: {}".format, name))
