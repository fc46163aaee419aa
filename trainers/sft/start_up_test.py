"""The command is parsed and checked without what only a rank needs, which takes seconds to import."""

import os
import subprocess
import sys

import pytest

OF_RANKS = {"peft", "torch._dynamo", "trainers.sft.rank", "transformers"}
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
