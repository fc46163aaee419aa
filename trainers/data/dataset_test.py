import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.data.dataset import split_validation


class Numbers:
    """Sample i is the token i, i + 1 times."""

    def __init__(self, size: int) -> None:
        self.lengths = np.arange(1, size + 1, dtype=np.int32)
        self.num_loss_counted_tokens = self.lengths - 1

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int):
        return {"input_ids": [index] * (index + 1), "labels": [index] * (index + 1)}


def numbers(view) -> list[int]:
    return [view[index]["input_ids"][0] for index in range(len(view))]


class TestSplit:
    @given(size=st.integers(1, 60), percent=st.integers(0, 98), seed=st.integers(0, 5))
    def test_every_sample_is_on_one_side_with_its_counts(self, size, percent, seed):
        expected = -(-size * percent // 100)
        if expected == size:
            return
        train, validation = split_validation(Numbers(size), percent / 100, seed)
        assert len(validation) == expected
        assert sorted(numbers(train) + numbers(validation)) == list(range(size))
        for view in (train, validation):
            assert view.lengths.tolist() == [number + 1 for number in numbers(view)]
            assert view.num_loss_counted_tokens.tolist() == numbers(view)

    def test_the_seed_alone_chooses(self):
        first, again, other = (numbers(split_validation(Numbers(100), 0.3, seed)[1]) for seed in (0, 0, 1))
        assert first == again
        assert first != other
        assert first != list(range(70, 100))

    def test_the_fraction_is_read_as_decimal(self):
        # In floating point 100 * 0.07 is 7.000000000000001.
        assert len(split_validation(Numbers(100), 0.07, 0)[1]) == 7

    @pytest.mark.parametrize("fraction", [-0.1, 1, 1.5, float("nan")])
    def test_a_fraction_outside_is_named(self, fraction):
        with pytest.raises(ValueError, match=rf"validation fraction must be in \[0, 1\), got {fraction}"):
            split_validation(Numbers(3), fraction, 0)

    def test_something_must_be_left_to_train_on(self):
        with pytest.raises(ValueError, match="validation fraction of 0.9 takes all 3 samples"):
            split_validation(Numbers(3), 0.9, 0)
