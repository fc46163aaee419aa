import itertools
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainers.data import sampler
from trainers.data.sampler import EpochSampler, InfiniteSampler, epoch_order

lengths = st.integers(1, 50)
seeds = st.integers(0, 1000)


def as_saved(state: dict[str, int]) -> dict[str, int]:
    """A state as it comes back from a checkpoint."""
    return json.loads(json.dumps(state))


class TestEpochSampler:
    def test_exact_order(self):
        for epoch in range(3):
            expected = torch.randperm(100, generator=torch.Generator().manual_seed(42 + epoch)).tolist()
            assert list(EpochSampler(100, seed=42, epoch=epoch)) == expected

    @given(length=lengths, seed=seeds, epoch=st.integers(0, 5))
    def test_an_epoch_holds_every_index_once(self, length, seed, epoch):
        assert sorted(EpochSampler(length, seed, epoch)) == list(range(length))

    @given(length=lengths, seed=seeds, taken=st.integers(0, 120))
    def test_continues_exactly_where_the_state_was_taken(self, length, seed, taken):
        whole = itertools.chain.from_iterable(EpochSampler(length, seed, epoch) for epoch in itertools.count())
        rest = list(itertools.islice(whole, taken, taken + 60))
        first = EpochSampler(length, seed)
        handed_out = 0
        while handed_out < taken:
            handed_out += sum(1 for _ in itertools.islice(first, taken - handed_out))
        second = EpochSampler(length, seed)
        second.load_state_dict(as_saved(first.state_dict()))
        resumed = itertools.chain.from_iterable(second for _ in itertools.count())
        assert list(itertools.islice(resumed, 60)) == rest

    def test_the_last_index_of_an_epoch_leaves_the_next_one_to_do(self):
        ours = EpochSampler(3, seed=0)
        list(itertools.islice(ours, 2))
        assert ours.state_dict() == {"length": 3, "seed": 0, "epoch": 0, "position": 2}
        list(itertools.islice(ours, 1))
        assert ours.state_dict() == {"length": 3, "seed": 0, "epoch": 1, "position": 0}

    def test_set_epoch_keeps_the_position_of_the_current_epoch_only(self):
        whole = epoch_order(10, 0, 0).tolist()
        ours = EpochSampler(10, seed=0)
        list(itertools.islice(ours, 4))
        ours.set_epoch(0)
        assert list(itertools.islice(ours, 3)) == whole[4:7]
        ours.set_epoch(2)
        assert ours.epoch == 2
        assert list(ours) == epoch_order(10, 0, 2).tolist()
        assert ours.epoch == 3

    def test_length_is_that_of_the_epoch_wherever_the_position_is(self):
        ours = EpochSampler(10, seed=0)
        list(itertools.islice(ours, 4))
        assert len(ours) == 10

    def test_no_samples_are_an_empty_epoch(self):
        assert list(EpochSampler(0, seed=0)) == []

    def test_blocks_are_invisible(self, monkeypatch):
        whole = list(EpochSampler(50, seed=3))
        monkeypatch.setattr(sampler, "_BLOCK", 7)
        assert list(EpochSampler(50, seed=3)) == whole

    def test_does_not_touch_the_global_generator(self):
        torch.manual_seed(0)
        before = torch.get_rng_state()
        list(EpochSampler(10, seed=5))
        assert torch.equal(torch.get_rng_state(), before)


class TestInfiniteSampler:
    @given(length=lengths, seed=seeds)
    def test_is_one_epoch_after_the_other(self, length, seed):
        epochs = [epoch_order(length, seed, epoch).tolist() for epoch in range(3)]
        assert list(itertools.islice(InfiniteSampler(length, seed), 3 * length)) == list(itertools.chain(*epochs))

    @given(length=lengths, seed=seeds, taken=st.integers(0, 120))
    def test_continues_exactly_where_the_state_was_taken(self, length, seed, taken):
        rest = list(itertools.islice(InfiniteSampler(length, seed), taken, taken + 60))
        first = InfiniteSampler(length, seed)
        list(itertools.islice(first, taken))
        second = InfiniteSampler(length, seed)
        second.load_state_dict(as_saved(first.state_dict()))
        assert second.epoch == taken // length
        assert list(itertools.islice(second, 60)) == rest

    def test_a_second_iterator_goes_on(self):
        whole = list(itertools.islice(InfiniteSampler(10, 0), 8))
        ours = InfiniteSampler(10, 0)
        assert list(itertools.islice(ours, 5)) + list(itertools.islice(ours, 3)) == whole


class TestBadInput:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: EpochSampler(-1, 0), "length must be an integer from 0 to 2..62, got -1"),
            (lambda: EpochSampler(5, -1), "seed must be an integer from 0 to 2..62, got -1"),
            (lambda: EpochSampler(5, 1 << 63), "seed must be an integer from 0 to 2..62, got 9223372036854775808"),
            (lambda: EpochSampler(5, 0, -1), "epoch must be an integer from 0 to 2..62, got -1"),
            (lambda: EpochSampler(5, 0.5), "seed must be an integer from 0 to 2..62, got 0.5"),
            (lambda: EpochSampler(5, 0).set_epoch(-2), "epoch must be an integer from 0 to 2..62, got -2"),
            (lambda: InfiniteSampler(0, 0), "length must be an integer from 1 to 2..62, got 0"),
            (lambda: InfiniteSampler(True, 0), "length must be an integer from 1 to 2..62, got True"),
        ],
    )
    def test_argument_is_named(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()

    @pytest.mark.parametrize("kind", [EpochSampler, InfiniteSampler])
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"length": 11}, "saved with length 11, this sampler has length 10"),
            ({"seed": 1}, "saved with seed 1, this sampler has seed 0"),
            ({"position": -1}, r"state\['position'\] must be an integer from 0 to 2..62, got -1"),
            ({"position": 1.5}, r"state\['position'\] must be an integer"),
            ({"rank": 0}, "expected .*'length', 'position', 'seed'"),
        ],
    )
    def test_state_of_another_run_is_refused_and_changes_nothing(self, kind, change, message):
        ours = kind(10, 0)
        list(itertools.islice(ours, 3))
        before = ours.state_dict()
        with pytest.raises(ValueError, match=message):
            ours.load_state_dict(before | change)
        assert ours.state_dict() == before

    def test_state_of_the_other_kind_is_refused(self):
        with pytest.raises(ValueError, match="kind of sampler"):
            EpochSampler(10, 0).load_state_dict(InfiniteSampler(10, 0).state_dict())

    def test_position_outside_the_epoch_is_refused(self):
        state = EpochSampler(10, 0).state_dict() | {"position": 10}
        with pytest.raises(ValueError, match="position 10 is outside an epoch of 10 samples"):
            EpochSampler(10, 0).load_state_dict(state)
