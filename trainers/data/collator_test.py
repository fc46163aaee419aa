import itertools
import logging

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainers.data.collator import (
    DUMMY_SAMPLE,
    MaxTokensPerRankCollator,
    collate_packed,
    collate_padded,
    count_loss_tokens,
)
from trainers.data.minibatch import IGNORE_INDEX, Sample
from trainers.data.packing import STRATEGIES

LIMIT = 40
X = IGNORE_INDEX
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


@st.composite
def samples(draw, max_length: int = LIMIT) -> Sample:
    ids = draw(st.lists(st.integers(0, 99), min_size=1, max_size=max_length))
    labels = [token if draw(st.booleans()) else IGNORE_INDEX for token in ids]
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}


def counted(sample: Sample) -> int:
    return sum(label != IGNORE_INDEX for label in sample["labels"].tolist()[1:])


def sequences(minibatch) -> list[tuple[list[int], list[int], list[int]]]:
    """Ids, labels and positions of each sequence, out of either form."""
    if "cu_seqlens" in minibatch:
        bounds = minibatch["cu_seqlens"].tolist()
        cuts = [(0, slice(start, end)) for start, end in itertools.pairwise(bounds)]
    else:
        cuts = [(row, slice(0, int(mask.sum()))) for row, mask in enumerate(minibatch["attention_mask"])]
    keys = ("input_ids", "labels", "position_ids")
    return [tuple(minibatch[key][row, tokens].tolist() for key in keys) for row, tokens in cuts]


class TestPackedForm:
    def test_exact_values(self):
        minibatch = collate_packed(
            [
                {"input_ids": torch.tensor([1, 2, 3]), "labels": torch.tensor([1, X, 3])},
                {"input_ids": torch.tensor([4, 5]), "labels": torch.tensor([4, 5])},
            ],
            batch_num_loss_counted_tokens=9,
            batch_num_dropped_samples=1,
        )
        assert minibatch.pop("input_ids").tolist() == [[1, 2, 3, 4, 5]]
        assert minibatch.pop("labels").tolist() == [[X, X, 3, X, 5]]
        assert minibatch.pop("position_ids").tolist() == [[0, 1, 2, 0, 1]]
        cu_seqlens = minibatch.pop("cu_seqlens")
        assert cu_seqlens.dtype == torch.int32
        assert cu_seqlens.tolist() == [0, 3, 5]
        assert minibatch == {
            "max_seqlen": 3,
            "num_samples": 2,
            "num_loss_counted_tokens": 2,
            "batch_num_loss_counted_tokens": 9,
            "batch_num_dropped_samples": 1,
        }

    @given(batch=st.lists(samples(), min_size=1, max_size=8))
    def test_a_loss_that_shifts_the_row_scores_what_each_sequence_counts(self, batch):
        minibatch = collate_packed(batch, 0)
        shifted = minibatch["labels"][0, 1:] != IGNORE_INDEX
        assert minibatch["num_loss_counted_tokens"] == int(shifted.sum()) == sum(map(counted, batch))
        assert (minibatch["labels"][0, minibatch["cu_seqlens"][:-1].long()] == IGNORE_INDEX).all()

    @given(batch=st.lists(samples(), min_size=1, max_size=8))
    def test_position_restarts_in_every_sequence(self, batch):
        minibatch = collate_packed(batch, 0)
        assert [positions for _, _, positions in sequences(minibatch)] == [
            list(range(len(sample["input_ids"]))) for sample in batch
        ]
        assert minibatch["max_seqlen"] == max(len(sample["input_ids"]) for sample in batch)
        assert {minibatch[key].dtype for key in ("input_ids", "labels", "position_ids")} == {torch.int64}

    def test_samples_stay_as_they_were(self):
        sample: Sample = {"input_ids": torch.tensor([1, 2]), "labels": torch.tensor([1, 2])}
        minibatch = collate_packed([sample], 0)
        minibatch["input_ids"].zero_()
        assert sample["labels"].tolist() == sample["input_ids"].tolist() == [1, 2]


class TestPaddedForm:
    def test_exact_values(self):
        minibatch = collate_padded(
            [
                {"input_ids": torch.tensor([1, 2, 3]), "labels": torch.tensor([1, X, 3])},
                {"input_ids": torch.tensor([4]), "labels": torch.tensor([4])},
            ],
            pad_token_id=7,
            batch_num_loss_counted_tokens=9,
        )
        assert minibatch.pop("input_ids").tolist() == [[1, 2, 3], [4, 7, 7]]
        assert minibatch.pop("labels").tolist() == [[X, X, 3], [X, X, X]]
        assert minibatch.pop("position_ids").tolist() == [[0, 1, 2], [0, 1, 2]]
        assert minibatch.pop("attention_mask").tolist() == [[1, 1, 1], [1, 0, 0]]
        assert minibatch == {
            "num_samples": 2,
            "num_loss_counted_tokens": 1,
            "batch_num_loss_counted_tokens": 9,
            "batch_num_dropped_samples": 0,
        }

    @given(batch=st.lists(samples(), min_size=1, max_size=8))
    def test_holds_the_same_sequences_as_the_packed_form(self, batch):
        padded, packed = collate_padded(batch, 0, 5, 2), collate_packed(batch, 5, 2)
        assert sequences(padded) == sequences(packed)
        assert all(packed[key] == value for key, value in padded.items() if isinstance(value, int))


@every_strategy
@given(batch=st.lists(samples(), max_size=24), num_ranks=st.integers(1, 4))
def test_all_ranks_together_hold_the_batch(strategy, batch, num_ranks):
    per_rank = [
        MaxTokensPerRankCollator(LIMIT, rank, num_ranks, strategy, pad_token_id=0)(batch) for rank in range(num_ranks)
    ]
    assert len({len(minibatches) for minibatches in per_rank}) == 1
    minibatches = list(itertools.chain(*per_rank))
    assert all(minibatch["input_ids"].numel() <= LIMIT for minibatch in minibatches)
    real = [ids for m in minibatches if m["num_samples"] for ids, _, _ in sequences(m)]
    assert sorted(real) == sorted(sample["input_ids"].tolist() for sample in batch)
    assert sum(m["num_samples"] for m in minibatches) == len(batch)
    in_batch = sum(map(counted, batch))
    assert sum(m["num_loss_counted_tokens"] for m in minibatches) == in_batch
    assert {m["batch_num_loss_counted_tokens"] for m in minibatches} == {in_batch}


@every_strategy
@pytest.mark.parametrize("lengths", [[], [LIMIT + 1]])
def test_nothing_left_is_one_dummy_on_every_rank(strategy, lengths):
    batch = [{"input_ids": torch.ones(n, dtype=torch.long), "labels": torch.ones(n).long()} for n in lengths]
    for rank in range(2):
        (minibatch,) = MaxTokensPerRankCollator(LIMIT, rank, 2, strategy, "drop", pad_token_id=0)(batch)
        assert minibatch["input_ids"].tolist() == [[15, 14, 13, 12, 11]]
        assert minibatch["labels"].tolist() == [[X] * 5]
        assert minibatch["position_ids"].tolist() == [[0, 1, 2, 3, 4]]
        counts = {key: value for key, value in minibatch.items() if key.startswith(("num", "batch"))}
        assert counts == {
            "num_samples": 0,
            "num_loss_counted_tokens": 0,
            "batch_num_loss_counted_tokens": 0,
            "batch_num_dropped_samples": len(lengths),
        }


@every_strategy
def test_given_counts_and_derived_counts_agree(strategy):
    batch = [{"input_ids": torch.arange(n), "labels": torch.arange(n)} for n in (1, 5, 9)]
    with_counts = [{**sample, "num_loss_counted_tokens": counted(sample)} for sample in batch]
    collate = MaxTokensPerRankCollator(LIMIT, 0, 1, strategy, pad_token_id=0)
    assert collate(batch)[0]["batch_num_loss_counted_tokens"] == 12
    assert collate(with_counts)[0]["batch_num_loss_counted_tokens"] == 12


@every_strategy
def test_a_sample_above_the_limit_is_refused_unless_dropped(strategy, caplog):
    batch = [{"input_ids": torch.ones(n).long(), "labels": torch.ones(n).long()} for n in (3, LIMIT + 1)]
    with pytest.raises(ValueError, match="sample 1 has 41 tokens, above max_tokens_per_rank=40"):
        MaxTokensPerRankCollator(LIMIT, 0, 2, strategy, pad_token_id=0)(batch)
    with caplog.at_level(logging.WARNING):
        per_rank = [MaxTokensPerRankCollator(LIMIT, r, 2, strategy, "drop", 0)(batch) for r in range(2)]
    assert [m["batch_num_dropped_samples"] for (m,) in per_rank] == [1, 1]
    assert [m["batch_num_loss_counted_tokens"] for (m,) in per_rank] == [2, 2]
    assert caplog.messages == ["left out 1 of 2 samples longer than max_tokens_per_rank=40"]


class TestInputs:
    @pytest.mark.parametrize(
        "convert",
        [
            list,
            tuple,
            np.array,
            lambda tokens: np.array(tokens, dtype=np.int16),
            lambda tokens: np.frombuffer(np.array(tokens, dtype=np.int64).tobytes(), dtype=np.int64),  # read-only
            lambda tokens: torch.tensor(tokens, dtype=torch.int32),
        ],
        ids=["list", "tuple", "array", "int16 array", "read-only array", "int32 tensor"],
    )
    def test_any_integers_give_the_same_minibatch(self, convert):
        ids, labels = [5, 6, 7], [X, X, 7]
        minibatch = collate_packed([{"input_ids": convert(ids), "labels": convert(labels)}], 1)
        assert minibatch["input_ids"].dtype == minibatch["labels"].dtype == torch.int64
        assert sequences(minibatch) == [(ids, labels, [0, 1, 2])]
        assert count_loss_tokens({"input_ids": convert(ids), "labels": convert(labels)}) == 1

    def test_dummy_is_still_untouched(self):
        collate_packed([], 0)["input_ids"].zero_()
        collate_padded([], 0, 0)["labels"].zero_()
        assert DUMMY_SAMPLE["input_ids"].tolist() == [15, 14, 13, 12, 11]
        assert DUMMY_SAMPLE["labels"].tolist() == [X] * 5

    @pytest.mark.parametrize(
        ("ids", "labels", "message"),
        [
            ([1, 2], [1], r"sample 1 of a minibatch has input_ids of shape \[2\] and labels of shape \[1\]"),
            ([[1, 2]], [[1, 2]], r"sample 1 of a minibatch has input_ids of shape \[1, 2\]"),
            ([1.0], [1], "must be integers, got float64"),
            (np.array([1.0]), [1], "must be integers, got float64"),
            (torch.tensor([1.0]), [1], "must be integers, got torch.float32"),
            (torch.tensor([True]), [1], "must be integers, got torch.bool"),
        ],
    )
    def test_malformed_sample_is_named(self, ids, labels, message):
        good: Sample = {"input_ids": [1], "labels": [1]}
        with pytest.raises(ValueError, match=message):
            collate_packed([good, {"input_ids": ids, "labels": labels}], 0)

    @pytest.mark.parametrize("collate", [collate_packed, lambda s, n: collate_padded(s, 0, n)])
    def test_a_wrong_count_is_refused(self, collate):
        # 3 is what counting all labels gives, a first token included.
        sample: Sample = {"input_ids": [1, 2, 3], "labels": [1, 2, 3], "num_loss_counted_tokens": 3}
        with pytest.raises(ValueError, match=r"num_loss_counted_tokens=\[3\], in sum 3, but 2 labels carry loss"):
            collate([sample], 3)
        other: Sample = {"input_ids": [1, 2], "labels": [1, 2]}  # counted here
        with pytest.raises(ValueError, match=r"num_loss_counted_tokens=\[3, 1\], in sum 4, but 3 labels carry loss"):
            collate([sample, other], 4)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"rank": 2}, "rank 2 is not one of num_ranks=2"),
            ({"rank": -1}, "rank -1 is not one of num_ranks=2"),
            ({"num_ranks": 0}, "num_ranks must be an integer >= 1, got 0"),
            ({"max_tokens_per_rank": 0}, "max_tokens_per_rank must be an integer >= 1, got 0"),
            ({"strategy": "multipack"}, "strategy 'multipack' is unknown"),
            ({"oversize": "truncate"}, "oversize='truncate' is unknown"),
            ({"strategy": "padded"}, "pad_token_id=None with strategy='padded': give the tokenizer's pad id"),
            ({"strategy": "padded", "pad_token_id": -1}, "pad_token_id=-1 with strategy='padded'"),
        ],
    )
    def test_bad_argument_is_named_before_the_first_batch(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            MaxTokensPerRankCollator(**{"max_tokens_per_rank": 10, "rank": 0, "num_ranks": 2} | arguments)
