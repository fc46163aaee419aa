"""Our collator beside mini_trainer's, in one process, on the same samples: 128k tokens per rank."""

import numpy as np
import pytest
import torch
from mini_trainer.sampler import MaxTokensPerRankCollator as PublishedCollator

from trainers.data.benchmarking import lengths_of, report, seconds
from trainers.data.collator import MaxTokensPerRankCollator

TOKENS = 131_072
KINDS = {
    "int64 tensor": torch.from_numpy,
    "int64 array": lambda array: array,
    "list": lambda array: array.tolist(),
}


@pytest.fixture(autouse=True)
def one_thread():
    """As in a worker of a data loader, for both."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def batch_of(tokens: int, convert) -> list[dict]:
    """Samples of together at most ``tokens``; the first half of each carries no loss."""
    rng = np.random.default_rng(0)
    batch = []
    for length in lengths_of("lognormal(6.3, 0.9)", tokens):
        if length > tokens:
            return batch
        tokens -= length
        ids = rng.integers(16, 50_000, length)
        labels = np.where(np.arange(length) < length // 2, -100, ids)
        counted = int((labels[1:] != -100).sum())
        batch.append(
            {"input_ids": convert(ids), "labels": convert(labels), "len": length, "num_loss_counted_tokens": counted}
        )
    raise AssertionError("not enough lengths")


def test_same_tokens_as_the_published_collator():
    batch = batch_of(TOKENS, torch.from_numpy)
    (ours,), (theirs,) = MaxTokensPerRankCollator(TOKENS, 0, 1)(batch), PublishedCollator(TOKENS, 0, 1)(batch)
    assert ours["input_ids"].sum() == theirs["input_ids"].sum()
    for key in ("num_samples", "batch_num_loss_counted_tokens"):
        assert ours[key] == theirs[key]
    assert ours["input_ids"].shape == theirs["input_ids"].shape == (1, sum(sample["len"] for sample in batch))


@pytest.mark.parametrize("num_ranks", [1, 8])
def test_collate_128k_tokens_per_rank(num_ranks, capsys):
    rows = []
    for kind, convert in KINDS.items():
        # 98 %: what 8 ranks hold in one step, whoever packs.
        batch = batch_of(TOKENS * num_ranks * 98 // 100, convert)
        collators = {
            "ours: packed": (MaxTokensPerRankCollator(TOKENS, 0, num_ranks), 30),
            "ours: padded": (MaxTokensPerRankCollator(TOKENS, 0, num_ranks, "padded", pad_token_id=0), 30),
            "mini_trainer: packed": (PublishedCollator(TOKENS, 0, num_ranks), 2),
        }
        for name, (collate, repeats) in collators.items():
            minibatches = collate(batch)
            rows.append(
                {
                    "samples given as": kind,
                    "collator": name,
                    "samples": len(batch),
                    "minibatches": len(minibatches),
                    "tokens of this rank": sum(minibatch["input_ids"].numel() for minibatch in minibatches),
                    "ms": f"{seconds(lambda collate=collate, batch=batch: collate(batch), repeats) * 1e3:.1f}",
                }
            )
    with capsys.disabled():
        report(f"collate_{num_ranks}_ranks", rows)
