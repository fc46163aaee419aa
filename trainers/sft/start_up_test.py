"""Nothing is imported before it is needed, because it takes seconds: by the command, and by a rank."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from torch._inductor import async_compile

from trainers import sft
from trainers.sft import command_line
from trainers.sft.config import TrainConfig
from trainers.sft.sft_cases import write_case

OF_RANKS = {"peft", "torch._dynamo", "trainers.sft.rank", "transformers"}
OF_EXTRAS = {"bitsandbytes", "datasets", "deepspeed", "peft", "sklearn", "tensorboard", "wandb"}
TRAIN = ["train", "--model=m", "--data=d", "--output=o"]


def start(*arguments):
    """Return exit status, what was told, and the modules that were imported."""
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-X", "importtime", "-m", "trainers.sft.command_line", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    lines = process.stderr.splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    assert "trainers.sft.config" in imported
    return process.returncode, process.stdout + process.stderr, imported


@pytest.mark.parametrize(
    ("arguments", "status", "message", "unneeded"),
    [
        (["--help"], 0, "pack-stats", {*OF_RANKS, "torch"}),
        ([*TRAIN, "--steps=0"], 1, "steps: Input should be greater than 0", {*OF_RANKS, "torch"}),
        ([*TRAIN, "--infinite", "--device=cpu"], 1, "infinite and schedule=cosine", {*OF_RANKS, "torch"}),
        ([*TRAIN, "--infinite"], 1, "infinite and schedule=cosine", OF_RANKS),  # (torch looks for GPUs)
    ],
)
def test_nothing_is_imported_before_a_rank_needs_it(arguments, status, message, unneeded):
    code, told, imported = start(*arguments)
    assert (code, message in told) == (status, True), told
    assert not imported & unneeded


@pytest.mark.parametrize(
    ("gpus", "changes", "started"),
    [(1, {}, ["compiler", "rank"]), (0, {}, ["rank"]), (1, {"compile": False}, ["rank"])],
)
def test_the_compiler_starts_before_the_imports_of_a_rank(monkeypatch, gpus, changes, started):
    order = []
    monkeypatch.setattr(command_line, "_num_gpus", lambda config: gpus)
    monkeypatch.setattr(async_compile, "maybe_warm_pool", lambda: order.append("compiler"))
    rank = SimpleNamespace(run=lambda config: order.append("rank"))
    monkeypatch.setitem(sys.modules, "trainers.sft.rank", rank)
    monkeypatch.setattr(sft, "rank", rank, raising=False)
    command_line.run(TrainConfig(model="m", data="d", output="o", steps=1, **changes))
    assert order == started


def test_a_plain_training_imports_no_extras(tmp_path):
    """Nor what transformers' Trainer is made of, to which its schedules belong."""
    write_case(tmp_path)
    folders = [f"--model={tmp_path / 'model'}", f"--data={tmp_path / 'data.jsonl'}", f"--output={tmp_path / 'output'}"]
    code, told, imported = start("train", *folders, "--steps=1", "--max-tokens-per-rank=40", "--device=cpu")
    assert code == 0, told
    assert "trainers.sft.rank" in imported
    assert not {name.partition(".")[0] for name in imported} & OF_EXTRAS
    assert "transformers.trainer_utils" not in imported
