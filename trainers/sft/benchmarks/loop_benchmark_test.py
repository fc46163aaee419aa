"""Tokens per second of our loop beside mini_trainer's, each with its own data loader, on the shipped conversations.

All trainings run in one process with one thread for operators, in rounds, so that no side has the quieter machine.
Times are CPU times, so that other programs do not count, from the end of the third optimizer step to the end of the
last one, so that set-up, compilation and the saves at the end do not.
"""

import json
import statistics
import time
from pathlib import Path
from unittest import mock

import pytest
import torch
from mini_trainer import setup_model_for_training as their_setup
from mini_trainer.none_reduction_losses import hf_fixed_cross_entropy_none_reduction
from mini_trainer.sampler import get_data_loader
from mini_trainer.train import TrainingMode
from mini_trainer.train import train as their_train
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import get_scheduler

from testing.distributed.launch import launch_procs
from trainers.data.benchmarking import EXAMPLE, report
from trainers.data.preparation import prepare
from trainers.models.load import read_model
from trainers.sft.config import TrainConfig
from trainers.sft.loop import train
from trainers.sft.metrics import JsonlMetrics
from trainers.sft.sft_cases import Listener, worker_of_test

MODEL = Path(__file__).parent.parent / "example/tiny_llama"
STEPS, SKIPPED = 11, 3
ROUNDS = 3
BATCH_SIZE = 64
TOKENS = 4096


def ours(data: Path, folder: Path, **options) -> list[int]:
    """Train; return the tokens of each step."""
    folder.mkdir(parents=True)
    config = TrainConfig(
        model=MODEL,
        tokenizer=EXAMPLE,
        data=data,
        output=folder,
        steps=STEPS,
        batch_size=BATCH_SIZE,
        max_tokens_per_rank=TOKENS,
        **options,
    )
    listener = Listener()
    train(config, worker_of_test(torch.device("cpu")), [JsonlMetrics(folder), listener])
    return [record["batch_tokens"] for record in listener.steps]


def theirs(data: Path, folder: Path, dtype: torch.dtype, recompute: bool) -> list[int]:
    """Their sharding, loader and loop. They are made for GPUs in bf16: told otherwise here are device and dtype."""
    folder.mkdir(parents=True)
    changes = {
        "init_device_mesh": lambda _, *arguments, **named: init_device_mesh("cpu", *arguments, **named),
        "MixedPrecisionPolicy": lambda **_: MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32),
    }
    if not recompute:
        changes["ptd_checkpoint_wrapper"] = lambda block, **_: block
    with (
        mock.patch.multiple(their_setup, **changes),
        mock.patch.multiple(torch.cuda, reset_peak_memory_stats=lambda: None, max_memory_allocated=lambda: 0),
        mock.patch("datasets.config.HF_DATASETS_CACHE", str(folder / "datasets")),
        mock.patch("transformers.loss.loss_utils.fixed_cross_entropy", hf_fixed_cross_entropy_none_reduction),
    ):
        model = their_setup.wrap_fsdp2(read_model(MODEL))
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, betas=(0.9, 0.95), weight_decay=0.0)
        schedule = get_scheduler("cosine", optimizer, num_warmup_steps=0, num_training_steps=STEPS)
        loader, _ = get_data_loader(str(data), BATCH_SIZE, TOKENS, 0, rank=0, world_size=1)
        their_train(
            model,
            optimizer,
            schedule,
            loader,
            str(folder),
            None,
            str(MODEL),
            training_mode=TrainingMode.STEP,
            max_steps=STEPS,
        )
    records: list[str] = []
    while len(records) < STEPS:  # (a thread of theirs writes them)
        time.sleep(0.01)
        records = (folder / "training_metrics_0.jsonl").read_text().splitlines()
    return [int(json.loads(record)["num_total_tokens"]) for record in records]


VARIANTS = {
    "ours": (ours, {}),
    "ours, transformers' loss": (ours, {"loss": "transformers"}),
    "mini_trainer": (theirs, {"dtype": torch.float32, "recompute": False}),
    "ours, bf16, activations computed anew": (
        ours,
        {"compute_dtype": "bfloat16", "activation_checkpointing": "full"},
    ),
    "mini_trainer, bf16, activations computed anew": (theirs, {"dtype": torch.bfloat16, "recompute": True}),
}


def measure(data: Path, folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tokens and CPU seconds of each variant in each round."""
    torch.set_num_threads(1)
    ends: list[float] = []
    register_optimizer_step_post_hook(lambda *_: ends.append(time.process_time()))
    measured: dict[str, list[tuple[int, float]]] = {variant: [] for variant in VARIANTS}
    for number in range(ROUNDS):
        for variant, (train_it, options) in VARIANTS.items():
            ends.clear()
            tokens = train_it(data, folder / str(number) / variant, **options)
            assert len(tokens) == len(ends) == STEPS
            measured[variant].append((sum(tokens[SKIPPED:]), ends[-1] - ends[SKIPPED - 1]))
    return measured


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "tokens.jsonl"
    prepare(EXAMPLE / "conversations.jsonl", EXAMPLE, path, max_len=TOKENS)
    return path


def test_tokens_per_second(data, tmp_path, capsys):
    (measured,) = launch_procs(measure, 1, data, tmp_path, timeout=3000)
    (tokens,) = {tokens for results in measured.values() for tokens, _ in results}  # (the same batches for all)
    rows = []
    for variant, results in measured.items():
        seconds = sorted(seconds for _, seconds in results)
        rows.append(
            {
                "loop": variant,
                "tokens": f"{tokens:,}",
                "CPU s": " ".join(f"{each:.1f}" for each in seconds),
                "tokens per CPU s": f"{tokens / statistics.median(seconds):,.0f}",
            }
        )
    with capsys.disabled():
        report("sft_loop", rows)
