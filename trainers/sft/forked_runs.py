"""Trainings in processes forked from the test's, which has everything imported: they start in a moment."""

import json
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from matplotlib import pyplot  # noqa: F401  # (imported once, before the forks)

from trainers.sft.config import TrainConfig
from trainers.sft.metrics import METRICS
from trainers.sft.rank import run

_FORK = multiprocessing.get_context("fork")


def start(config: TrainConfig, num_ranks: int) -> list[BaseProcess]:
    """Start what the command line runs on each rank."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    places = [
        {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_ranks), "MASTER_PORT": port}
        for rank in range(num_ranks)
    ]
    ranks = [_FORK.Process(target=_rank, args=(config, place)) for place in places]
    for rank in ranks:
        rank.start()
    return ranks


def _rank(config: TrainConfig, place: dict[str, str]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", **place}
    sys.exit(run(config))


def statuses(ranks: list[BaseProcess]) -> list[int | None]:
    """Wait for the ranks; return how they ended."""
    for rank in ranks:
        rank.join()
    return [rank.exitcode for rank in ranks]


def wait_until(condition: Callable[[], bool], ranks: list[BaseProcess]) -> None:
    """Wait for a condition; an error if the ranks end before."""
    while not condition():
        ranks[0].join(0.002)
        assert ranks[0].is_alive(), f"the training ended with {ranks[0].exitcode}"


def num_metrics(config: TrainConfig) -> int:
    """Return how many lines of metrics there are."""
    path = config.output / METRICS
    return path.read_bytes().count(b"\n") if path.exists() else 0


def last_state(config: TrainConfig) -> int:
    """Return the step of the newest complete state; 0 if there is none."""
    return max((int(path.name[-10:]) for path in (config.output / "states").glob("step-*")), default=0)


def results(config: TrainConfig) -> tuple[list[tuple[int, float, float]], dict[str, bytes]]:
    """Return steps with their losses and gradient norms, and the files of weights that were saved."""
    records: list[dict[str, Any]] = [json.loads(line) for line in (config.output / METRICS).read_text().splitlines()]
    weights = {path.name: path.read_bytes() for path in _weights(config.output / "models")}
    return [(each["step"], each["loss"], each["grad_norm"]) for each in records], weights


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))
