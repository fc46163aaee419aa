"""Our data set and loader beside mini_trainer's, in one process, on the same file: opening, random reads, batches."""

import itertools
import json
import os
import threading
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from mini_trainer.sampler import JsonlDataset as PublishedDataset
from mini_trainer.sampler import get_data_loader as published_data_loader

from trainers.data.benchmarking import LIMIT, lengths_of, peak_bytes, report, seconds
from trainers.data.jsonl_dataset import JsonlDataset
from trainers.data.loader import get_data_loader
from trainers.data.packing import pack
from trainers.data.pretraining_blocks import PretrainingBlocks, write_pretraining_blocks
from trainers.data.sampler import EpochSampler, InfiniteSampler

SAMPLES = 20_000
BATCH_SIZE = 128
NUM_RANKS = 8
TOKENS = 16_384


@pytest.fixture(scope="module", autouse=True)
def cache_of_datasets(tmp_path_factory):
    """Theirs is in the home folder, which a sandbox does not let them write."""
    with mock.patch("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("huggingface")):
        yield


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    """Lognormal lengths; the first half of each sample carries no loss."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("loader") / "data.jsonl"
    with path.open("w") as file:
        for length in lengths_of("lognormal(6.3, 0.9)", SAMPLES):
            ids = rng.integers(16, 50_000, length).tolist()
            labels = [-100] * (length // 2) + ids[length // 2 :]
            file.write(json.dumps({"input_ids": ids, "labels": labels}) + "\n")
    return path


def show(capsys, name: str, rows: list[dict]) -> None:
    with capsys.disabled():
        report(name, rows)


def test_open(path, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))  # nothing kept from earlier runs
    cache = tmp_path / "index"
    size = path.stat().st_size
    rows = []
    for name, open_it in (
        ("ours", lambda: JsonlDataset(path)),
        (f"ours, {os.cpu_count()} processes", lambda: JsonlDataset(path, num_processes=os.cpu_count())),
        ("ours, first time with an index cache", lambda: JsonlDataset(path, cache_dir=cache)),
        ("ours, again", lambda: JsonlDataset(path, cache_dir=cache)),
        ("mini_trainer, first time", lambda: PublishedDataset(str(path))),
        ("mini_trainer, again", lambda: PublishedDataset(str(path))),
    ):
        taken: list[float] = []
        memory = peak_bytes(lambda open_it=open_it, taken=taken: taken.append(seconds(open_it, 1)))
        rows.append(
            {
                "data set": name,
                "s": f"{taken[0]:.2f}",
                "MB/s": f"{size / taken[0] / 1e6:.0f}",
                "MB": f"{memory / 1e6:.0f}",
            }
        )
    show(capsys, "dataset_open", rows)


def test_random_reads(path, tmp_path, capsys):
    order = np.random.default_rng(1).permutation(SAMPLES)[:2000].tolist()
    blocks_path = tmp_path / "blocks.npy"
    rng = np.random.default_rng(2)
    write_pretraining_blocks((rng.integers(16, 50_000, 850) for _ in range(SAMPLES)), blocks_path, 850, 0)
    rows = []
    for name, dataset in (
        ("ours: JSONL", JsonlDataset(path)),
        ("ours: blocks of 850", PretrainingBlocks(blocks_path, 0)),
        ("mini_trainer: JSONL", PublishedDataset(str(path))),
    ):
        tokens = sum(len(dataset[index]["input_ids"]) for index in order)
        taken = seconds(lambda dataset=dataset: [dataset[index] for index in order], 3)
        rows.append(
            {
                "data set": name,
                "samples/s": f"{len(order) / taken:,.0f}",
                "million tokens/s": f"{tokens / taken / 1e6:.1f}",
            }
        )
    show(capsys, "dataset_random_reads", rows)


def ours(path: Path, batch_size: int, tokens: int, num_workers: int):
    return get_data_loader(
        JsonlDataset(path),
        batch_size=batch_size,
        max_tokens_per_rank=tokens,
        rank=0,
        num_ranks=NUM_RANKS,
        sampler=InfiniteSampler(SAMPLES, 0),
        num_workers=num_workers,
    )


def published(path: Path, batch_size: int, tokens: int, num_workers: int):
    loader, _ = published_data_loader(
        str(path), batch_size, tokens, 0, rank=0, world_size=NUM_RANKS, num_workers=num_workers
    )
    return loader


@pytest.mark.parametrize(("batch_size", "tokens"), [(BATCH_SIZE, TOKENS), (8 * BATCH_SIZE, 8 * TOKENS)])
def test_batches_of_one_of_eight_ranks(path, capsys, batch_size, tokens):
    rows = []
    for name, make in (("ours", ours), ("mini_trainer", published)):
        for num_workers in (0, 1):
            batches = iter(make(path, batch_size, tokens, num_workers))
            next(batches)
            taken = seconds(lambda batches=batches: list(itertools.islice(batches, 8)), 2) / 8
            rows.append({"loader": name, "workers": num_workers, "ms per batch": f"{taken * 1e3:.1f}"})
    show(capsys, f"loader_batches_of_{batch_size}_samples", rows)


def test_what_a_step_waits_for(path, capsys):
    """A step that keeps the interpreter busy with small operators, as launching kernels does."""

    def step() -> None:
        end = time.thread_time() + 0.2
        while time.thread_time() < end:
            torch.zeros(16).add_(1)

    def per_step(batches) -> float:
        next(batches)
        return seconds(lambda: [(step(), next(batches)) for _ in range(10)], 2) / 10

    alone = per_step(itertools.repeat(None))
    rows = [{"loader": "none", "ms per step": f"{alone * 1e3:.1f}", "more ms": "0.0"}]
    for num_workers in (0, 1):
        taken = per_step(iter(ours(path, BATCH_SIZE, TOKENS, num_workers)))
        more = (taken - alone) * 1e3
        rows.append({"loader": f"{num_workers} threads", "ms per step": f"{taken * 1e3:.1f}", "more ms": f"{more:.1f}"})
    assert threading.active_count() < 10
    show(capsys, "loader_step", rows)


def test_packing_beside_the_rest_of_a_batch(path, capsys):
    dataset = JsonlDataset(path)
    indices = list(itertools.islice(EpochSampler(SAMPLES, 0), BATCH_SIZE))
    lengths = dataset.lengths[indices]
    assert lengths.max() <= LIMIT
    packing = seconds(lambda: pack(lengths, TOKENS, NUM_RANKS), 20)
    show(capsys, "loader_packing", [{"samples": BATCH_SIZE, "ranks": NUM_RANKS, "ms": f"{packing * 1e3:.2f}"}])
