import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.data.packing import STRATEGIES, pack
from trainers.data.packing_stats import bin_tokens, measure


def test_exact_values_of_two_batches():
    # Loads 9|8, then 6|dummy; then the second batch: 4|2.
    stats = measure([[9, 8, 6], [4, 2, 11]], max_tokens_per_rank=10, num_ranks=2, strategy="lpt")
    assert (stats.num_steps, stats.min_steps, stats.num_dummies, stats.num_dropped) == (3, 3, 1, 1)
    assert stats.fill == pytest.approx(29 / 60)
    assert stats.min_fill == pytest.approx(0.2)
    assert stats.padding == 0
    assert stats.waiting == pytest.approx(1 - 29 / (2 * (9 + 6 + 4)))
    assert stats.seconds > 0


def test_padded_counts_padding_as_computed():
    lengths = [4, 3, 3, 1]  # 4 and 3 are padded to 8 tokens, 3 and 1 to 6
    assert bin_tokens(pack(lengths, 8, 2, "padded"), lengths, "padded") == [[(7, 8), (4, 6)]]
    stats = measure([lengths], max_tokens_per_rank=8, num_ranks=2, strategy="padded")
    assert stats.fill == pytest.approx(11 / 16)
    assert stats.padding == pytest.approx(1 - 11 / 14)
    assert stats.waiting == pytest.approx(1 - 14 / 16)


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(batches=st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=20), min_size=1, max_size=3))
def test_shares_are_shares_and_steps_not_below_the_bound(strategy, batches):
    stats = measure(batches, 30, 3, strategy)
    assert stats.num_steps >= stats.min_steps >= len(batches)
    assert 0 < stats.min_fill <= 1
    assert 0 < stats.fill <= 1
    assert 0 <= stats.padding < 1
    assert -1e-12 <= stats.waiting < 1
    assert stats.num_dropped == 0


def test_nothing_left_is_an_error():
    with pytest.raises(ValueError, match="no sample has at most max_tokens_per_rank=3 tokens: raise the limit"):
        measure([[4], [5]], 3, 1, "best_fit")
