import itertools
import json
import threading
import traceback

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.data.collator import DUMMY_SAMPLE
from trainers.data.loader import get_data_loader
from trainers.data.minibatch import IGNORE_INDEX
from trainers.data.sampler import EpochSampler, InfiniteSampler, epoch_order

SAMPLERS = {"epoch": EpochSampler, "infinite": InfiniteSampler}
every_sampler = pytest.mark.parametrize("kind", SAMPLERS)
every_num_workers = pytest.mark.parametrize("num_workers", [0, 1, 3])


class Numbers:
    """Sample i is the token i, 1 + i % 7 times; remembers who read what."""

    def __init__(self, size: int) -> None:
        self.lengths = 1 + np.arange(size, dtype=np.int32) % 7
        self.num_loss_counted_tokens = self.lengths - 1
        self.reads: list[int] = []
        self.readers: set[int] = set()
        self.broken = -1

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int):
        if index == self.broken:
            raise OSError(f"cannot read sample {index}")
        self.reads.append(index)
        self.readers.add(threading.get_ident())
        tokens = torch.full((int(self.lengths[index]),), index)
        return {"input_ids": tokens, "labels": tokens, "num_loss_counted_tokens": len(tokens) - 1}


def loader_of(dataset=None, kind="epoch", rank=0, **options):
    dataset = Numbers(23) if dataset is None else dataset
    defaults = {"batch_size": 5, "max_tokens_per_rank": 8, "num_ranks": 2}
    sampler = SAMPLERS[kind](len(dataset), 3)
    return get_data_loader(dataset, rank=rank, sampler=sampler, **(defaults | options))


def numbers(batch) -> list[int]:
    """Samples of a batch on one rank, in the order of computation."""
    rows = []
    for minibatch in batch.minibatches:
        if minibatch["num_samples"]:
            rows += minibatch["input_ids"][0, minibatch["cu_seqlens"][:-1].long()].tolist()
    return rows


def comparable(batch):
    tensors_as_lists = [
        {key: value.tolist() if isinstance(value, torch.Tensor) else value for key, value in minibatch.items()}
        for minibatch in batch.minibatches
    ]
    return tensors_as_lists, batch.num_samples, batch.num_tokens, batch.epoch


def loader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batch-loader")]


class TestBatches:
    @settings(max_examples=40)
    @given(
        size=st.integers(1, 40),
        batch_size=st.integers(1, 12),
        num_ranks=st.integers(1, 4),
        drop_last=st.booleans(),
        num_workers=st.sampled_from([0, 2]),
    )
    def test_ranks_share_each_piece_of_the_order(self, size, batch_size, num_ranks, drop_last, num_workers):
        if drop_last and size < batch_size:
            return
        options = {"batch_size": batch_size, "num_ranks": num_ranks, "drop_last": drop_last, "num_workers": num_workers}
        datasets = [Numbers(size) for _ in range(num_ranks)]
        loaders = [loader_of(dataset, rank=rank, **options) for rank, dataset in enumerate(datasets)]
        for epoch in range(2):
            order = epoch_order(size, 3, epoch).tolist()
            pieces = [order[at : at + batch_size] for at in range(0, size, batch_size)]
            if drop_last and len(pieces[-1]) < batch_size:
                del pieces[-1]
            assert len(loaders[0]) == len(pieces)
            assert all(loader.epoch == epoch for loader in loaders)
            for piece, shares in zip(pieces, zip(*loaders, strict=True), strict=True):
                assert sorted(itertools.chain.from_iterable(map(numbers, shares))) == sorted(piece)
                assert len({len(share.minibatches) for share in shares}) == 1
                counted = {m["batch_num_loss_counted_tokens"] for share in shares for m in share.minibatches}
                assert counted == {sum(index % 7 for index in piece)}
                for share in shares:
                    assert (share.num_samples, share.epoch) == (len(piece), epoch)
                    assert share.num_tokens == sum(1 + index % 7 for index in piece)
        # Each rank read what it computed and nothing else.
        assert sum(len(dataset.reads) for dataset in datasets) == 2 * len(pieces) * batch_size - (
            0 if drop_last else 2 * (-size % batch_size)
        )

    def test_an_infinite_order_fills_batches_over_the_end_of_an_epoch(self):
        batches = list(itertools.islice(loader_of(Numbers(7), "infinite", num_ranks=1), 4))
        order = [*epoch_order(7, 3, 0).tolist(), *epoch_order(7, 3, 1).tolist(), *epoch_order(7, 3, 2).tolist()]
        assert [sorted(numbers(batch)) for batch in batches] == [sorted(order[at : at + 5]) for at in range(0, 20, 5)]
        assert [batch.epoch for batch in batches] == [0, 0, 1, 2]

    def test_padded_form(self):
        (batch, *_) = loader_of(strategy="padded", pad_token_id=99)
        assert "attention_mask" in batch.minibatches[0]

    def test_nothing_left_is_dummies_without_counted_tokens(self):
        (batch,) = loader_of(Numbers(3), max_tokens_per_rank=1, oversize="drop", drop_last=False, num_ranks=1)
        assert (batch.num_samples, batch.num_tokens) == (1, 1)
        dataset = Numbers(7)
        dataset.lengths += 10
        for batch in loader_of(dataset, oversize="drop"):
            (minibatch,) = batch.minibatches
            assert minibatch["input_ids"][0].equal(DUMMY_SAMPLE["input_ids"])
            assert (minibatch["labels"] == IGNORE_INDEX).all()
            assert minibatch["batch_num_loss_counted_tokens"] == batch.num_samples == batch.num_tokens == 0
        assert dataset.reads == []


class TestPosition:
    @every_sampler
    @every_num_workers
    @pytest.mark.parametrize("drop_last", [False, True])
    def test_continues_after_any_batch(self, kind, num_workers, drop_last):
        """Two epochs and a half, with a saved and restored position after every batch."""
        options = {"kind": kind, "num_workers": num_workers, "drop_last": drop_last}

        def endless(loader):
            return itertools.chain.from_iterable(loader for _ in itertools.count())

        whole = [comparable(batch) for batch in itertools.islice(endless(loader_of(**options)), 12)]
        for taken in range(12):
            first = loader_of(**options)
            for _ in itertools.islice(endless(first), taken):
                pass
            second = loader_of(**options)
            second.load_state_dict(json.loads(json.dumps(first.state_dict())))
            rest = [comparable(batch) for batch in itertools.islice(endless(second), 12 - taken)]
            assert rest == whole[taken:]

    @every_num_workers
    def test_counts_what_was_handed_out_only(self, num_workers):
        loader = loader_of(num_workers=num_workers)
        positions = [loader.state_dict()["position"]]
        for _ in loader:
            positions.append(loader.state_dict()["position"])
        assert positions == [0, 5, 10, 15, 20, 0]
        assert loader.epoch == 1

    def test_the_state_after_the_last_full_batch_is_the_next_epoch(self):
        loader = loader_of(drop_last=True)
        states = [loader.state_dict() for _ in loader]
        assert [(state["epoch"], state["position"]) for state in states] == [(0, 5), (0, 10), (0, 15), (1, 0)]

    def test_a_rest_that_fills_no_batch_is_the_next_epoch(self):
        loader = loader_of(drop_last=True)
        loader.load_state_dict(loader.state_dict() | {"position": 20})  # saved with another batch size
        assert list(loader) == []
        assert loader.epoch == 1

    @every_num_workers
    def test_a_loop_that_was_left_goes_on(self, num_workers):
        whole = [comparable(batch) for batch in loader_of()]
        loader = loader_of(num_workers=num_workers)
        first = [comparable(batch) for batch in itertools.islice(loader, 2)]
        assert first + [comparable(batch) for batch in loader] == whole

    def test_another_number_of_ranks_goes_on_with_the_same_samples(self):
        loader = loader_of(num_ranks=1)
        next(iter(loader))
        ranks = [loader_of(num_ranks=4, rank=rank) for rank in range(4)]
        for rank in ranks:
            rank.load_state_dict(loader.state_dict())
        expected = sorted(numbers(next(iter(loader))))
        assert sorted(itertools.chain.from_iterable(numbers(next(iter(rank))) for rank in ranks)) == expected

    def test_a_state_of_other_data_is_refused(self):
        with pytest.raises(ValueError, match="saved with length 7, this sampler has length 23"):
            loader_of().load_state_dict(loader_of(Numbers(7)).state_dict())


class TestBackground:
    @pytest.mark.parametrize("num_workers", [0, 1])
    def test_who_reads(self, num_workers):
        dataset = Numbers(23)
        list(loader_of(dataset, num_workers=num_workers))
        assert (threading.get_ident() in dataset.readers) == (num_workers == 0)

    @pytest.mark.parametrize("prefetch_batches", [1, 3])
    def test_prepares_as_much_ahead_as_asked(self, prefetch_batches):
        dataset = Numbers(100)
        batches = iter(loader_of(dataset, num_workers=1, num_ranks=1, prefetch_batches=prefetch_batches))
        next(batches)
        enough = 5 * (1 + prefetch_batches)
        while len(dataset.reads) < enough:  # the tier's time limit ends it
            threading.Event().wait(0.001)
        batches.close()
        assert len(dataset.reads) == enough

    @every_num_workers
    def test_a_loop_that_is_left_leaves_no_thread(self, num_workers):
        for _ in loader_of(num_workers=num_workers):
            assert len(loader_threads()) == num_workers if num_workers < 2 else loader_threads()
            break
        assert not loader_threads()

    def test_a_loop_that_fails_leaves_no_thread(self):
        with pytest.raises(RuntimeError, match="the step failed"):
            for _ in loader_of(num_workers=2):
                raise RuntimeError("the step failed")
        assert not loader_threads()

    @every_num_workers
    def test_an_error_arrives_in_its_turn_with_its_traceback(self, num_workers):
        dataset = Numbers(23)
        dataset.broken = epoch_order(23, 3, 0)[12].item()
        loader = loader_of(dataset, num_workers=num_workers, num_ranks=1)
        seen = []
        with pytest.raises(OSError, match=f"cannot read sample {dataset.broken}") as caught:
            for batch in loader:
                seen.append(batch)
        assert len(seen) == 2
        assert "__getitem__" in [frame.name for frame in traceback.extract_tb(caught.tb)]
        assert loader.state_dict()["position"] == 10
        assert not loader_threads()
        dataset.broken = -1
        assert comparable(next(iter(loader)))[2] > 0


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"batch_size": 0}, "batch_size must be an integer >= 1, got 0"),
            ({"num_workers": -1}, "num_workers must be an integer >= 0, got -1"),
            ({"prefetch_batches": 0}, "prefetch_batches must be an integer >= 1, got 0"),
            ({"rank": 2}, "rank 2 is not one of num_ranks=2"),
            ({"strategy": "padded"}, "pad_token_id=None with strategy='padded'"),
            ({"sampler": EpochSampler(22, 3)}, "the sampler is for 22 samples, the data set has 23"),
            ({"batch_size": 24, "drop_last": True}, "drop_last=True leaves no batch of 23 samples with batch_size=24"),
            ({"max_tokens_per_rank": 6}, "sample 6 has 7 tokens, above max_tokens_per_rank=6: raise .* at least 7"),
        ],
    )
    def test_is_named(self, options, message):
        arguments = {
            "batch_size": 5,
            "max_tokens_per_rank": 8,
            "rank": 0,
            "num_ranks": 2,
            "sampler": EpochSampler(23, 3),
        }
        with pytest.raises(ValueError, match=message):
            get_data_loader(Numbers(23), **(arguments | options))

    def test_an_empty_data_set_is_refused(self):
        with pytest.raises(ValueError, match="the data set has no samples"):
            loader_of(Numbers(0))

    def test_an_endless_loader_has_no_length(self):
        with pytest.raises(TypeError, match="InfiniteSampler has no length"):
            len(loader_of(kind="infinite"))


def test_pinned_where_there_is_a_gpu():
    (batch, *_) = loader_of(pin_memory=True, num_workers=1)
    assert batch.minibatches[0]["input_ids"].is_pinned() == torch.cuda.is_available()
