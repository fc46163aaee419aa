"""Ranks that share a file and nothing else: each makes its own index and packing."""

import itertools
import json

import pytest
import torch.distributed as dist

from testing.distributed.case import DistributedTest
from trainers.data.jsonl_dataset import JsonlDataset
from trainers.data.loader import get_data_loader
from trainers.data.sampler import EpochSampler

SIZE = 61


class TestRanks(DistributedTest):
    world_size = [2, 4]

    @pytest.fixture
    def path(self, tmp_path):
        rows = [{"input_ids": [i] * (1 + i % 9), "labels": [i] * (1 + i % 9)} for i in range(SIZE)]
        path = tmp_path / "data.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def test_compute_every_sample_once_in_as_many_steps(self, path):
        dataset = JsonlDataset(path, cache_dir=path.parent / "cache")
        loader = get_data_loader(
            dataset,
            batch_size=16,
            max_tokens_per_rank=20,
            rank=self.rank,
            num_ranks=self.world_size,
            sampler=EpochSampler(SIZE, seed=1),
            num_workers=1,
        )
        mine = [[(m["input_ids"].flatten().tolist(), m["num_samples"]) for m in batch.minibatches] for batch in loader]
        shares = [None] * self.world_size
        dist.all_gather_object(shares, mine)
        tokens = []
        for batch in zip(*shares, strict=True):
            assert len({len(minibatches) for minibatches in batch}) == 1
            for ids, num_samples in itertools.chain.from_iterable(batch):
                assert len(ids) <= 20
                tokens += ids if num_samples else []
        assert sorted(tokens) == sorted(i for i in range(SIZE) for _ in range(1 + i % 9))
        assert len(list((path.parent / "cache").glob("*.npy"))) == 1
