import itertools
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trainers.data import packing
from trainers.data.packing import DUMMY, STRATEGIES, Packing, min_steps, pack

LIMIT = 64
batches = st.lists(st.integers(1, LIMIT), max_size=60)
ranks = st.integers(1, 6)
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


def cost(strategy: str, members: list[int], lengths: list[int]) -> int:
    own = [lengths[index] for index in members if index != DUMMY]
    if not own:
        return 0
    return len(own) * max(own) if strategy == "padded" else sum(own)


def tokens_of_slowest_ranks(packed: Packing, lengths: list[int]) -> int:
    return sum(max(cost("", members, lengths) for members in step) for step in zip(*packed.minibatches, strict=True))


def fewest_steps(lengths: list[int], limit: int, num_ranks: int) -> int:
    """By trying every partition of the samples into bins."""

    def fewest_bins(rest: tuple[int, ...], bins: tuple[int, ...]) -> int:
        if not rest:
            return len(bins)
        found = fewest_bins(rest[1:], (*bins, rest[0]))
        for at, load in enumerate(bins):
            if load + rest[0] <= limit:
                found = min(found, fewest_bins(rest[1:], (*bins[:at], load + rest[0], *bins[at + 1 :])))
        return found

    return -(-fewest_bins(tuple(lengths), ()) // num_ranks)


@every_strategy
@given(lengths=batches, num_ranks=ranks)
def test_every_sample_once_under_the_limit_and_as_many_steps_on_every_rank(strategy, lengths, num_ranks):
    packed = pack(lengths, LIMIT, num_ranks, strategy)
    assert len(packed.minibatches) == num_ranks
    assert {len(steps) for steps in packed.minibatches} == {packed.num_steps}
    minibatches = list(itertools.chain.from_iterable(packed.minibatches))
    assert all(members == [DUMMY] or (members and DUMMY not in members) for members in minibatches)
    indices = Counter(index for members in minibatches for index in members if index != DUMMY)
    assert indices == Counter(range(len(lengths)))
    assert all(cost(strategy, members, lengths) <= LIMIT for members in minibatches)


@every_strategy
@given(lengths=batches, num_ranks=ranks)
def test_no_step_of_dummies_alone(strategy, lengths, num_ranks):
    steps = zip(*pack(lengths, LIMIT, num_ranks, strategy).minibatches, strict=True)
    assert all(any(members != [DUMMY] for members in step) for step in steps)


@every_strategy
@given(lengths=batches, num_ranks=ranks)
def test_list_and_array_pack_alike(strategy, lengths, num_ranks):
    as_array = pack(np.array(lengths, dtype=np.int32), LIMIT, num_ranks, strategy)
    assert as_array == pack(lengths, LIMIT, num_ranks, strategy)


def waited_for(packed: Packing, lengths: list[int], quadratic: float) -> float:
    """The work of each step's rank that has the most, summed."""

    def work(members: list[int]) -> float:
        return sum(lengths[index] + quadratic * lengths[index] ** 2 for index in members if index != DUMMY)

    return sum(max(map(work, step)) for step in zip(*packed.minibatches, strict=True))


@given(lengths=batches, num_ranks=ranks, quadratic=st.sampled_from([1e-3, 0.1, 10.0]))
@example([33, 27, 11, 59], 2, 10.0)  # (spread, they would wait longer)
def test_spreading_work_changes_who_waits_alone(lengths, num_ranks, quadratic):
    plain, spread = pack(lengths, LIMIT, num_ranks), pack(lengths, LIMIT, num_ranks, quadratic=quadratic)
    assert spread.num_steps == plain.num_steps
    indices = Counter(index for steps in spread.minibatches for members in steps for index in members)
    del indices[DUMMY]
    assert indices == Counter(range(len(lengths)))
    assert all(cost("", members, lengths) <= LIMIT for steps in spread.minibatches for members in steps)
    assert waited_for(spread, lengths, quadratic) <= waited_for(plain, lengths, quadratic)


@pytest.mark.parametrize(("num_ranks", "before", "after"), [(2, 0.03, 0.005), (4, 0.05, 0.01), (8, 0.1, 0.03)])
def test_ranks_wait_little_where_attention_costs(num_ranks, before, after):
    """Of lengths as they are in conversations, and an attention that takes as long as all else in 6,900 tokens."""
    lengths = np.clip(np.random.default_rng(0).lognormal(6.3, 0.9, 512), 32, 8000).astype(int).tolist()
    quadratic = 1 / 6900
    mean = sum(length + quadratic * length**2 for length in lengths) / num_ranks
    assert waited_for(pack(lengths, 16384, num_ranks), lengths, quadratic) > (1 + before) * mean
    assert waited_for(pack(lengths, 16384, num_ranks, quadratic=quadratic), lengths, quadratic) < (1 + after) * mean


def test_a_step_has_the_like_of_each_rank():
    lengths = [22, 20, 26, 44, 29, 52]
    assert waited_for(pack(lengths, LIMIT, 2, quadratic=1e-3), lengths, 1e-3) == pytest.approx(101.78)


@pytest.mark.parametrize("quadratic", [-1.0, float("nan")])
def test_negative_work_is_refused(quadratic):
    with pytest.raises(ValueError, match=f"quadratic must be >= 0, got {quadratic}"):
        pack([1], LIMIT, 1, quadratic=quadratic)


@every_strategy
@given(lengths=st.lists(st.integers(1, 2 * LIMIT), max_size=40), num_ranks=ranks)
def test_drop_leaves_out_exactly_the_samples_above_the_limit(strategy, lengths, num_ranks):
    packed = pack(lengths, LIMIT, num_ranks, strategy, oversize="drop")
    assert packed.dropped == [index for index, length in enumerate(lengths) if length > LIMIT]
    kept = {index for steps in packed.minibatches for members in steps for index in members} - {DUMMY}
    assert kept == set(range(len(lengths))) - set(packed.dropped)


@every_strategy
@pytest.mark.parametrize("oversize", ["error", "drop"])
def test_no_samples_are_no_steps(strategy, oversize):
    assert pack([], LIMIT, 3, strategy, oversize) == Packing([[], [], []], [])


@every_strategy
def test_every_sample_dropped_is_no_steps(strategy):
    assert pack([65, 70], LIMIT, 2, strategy, "drop") == Packing([[], []], [0, 1])


@every_strategy
def test_a_sample_at_the_limit_fits(strategy):
    assert pack([LIMIT], LIMIT, 2, strategy).minibatches == [[[0]], [[DUMMY]]]


@every_strategy
def test_a_sample_above_the_limit_is_named(strategy):
    with pytest.raises(
        ValueError,
        match=r"sample 1 has 65 tokens, above max_tokens_per_rank=64 \(2 of 4 samples are\): raise the limit to at "
        r"least 99, truncate the samples, or leave them out with oversize='drop'",
    ):
        pack([3, 65, 64, 99], LIMIT, 2, strategy)


class TestBestFit:
    @given(lengths=batches, num_ranks=ranks)
    def test_never_more_steps_than_the_others(self, lengths, num_ranks):
        steps = {strategy: pack(lengths, LIMIT, num_ranks, strategy).num_steps for strategy in STRATEGIES}
        assert steps["best_fit"] == min(steps.values())

    @given(lengths=batches, num_ranks=ranks)
    def test_with_equal_steps_the_slowest_ranks_take_no_longer_than_with_lpt(self, lengths, num_ranks):
        ours, lpt = (pack(lengths, LIMIT, num_ranks, strategy) for strategy in ("best_fit", "lpt"))
        if ours.num_steps == lpt.num_steps:
            assert tokens_of_slowest_ranks(ours, lengths) <= tokens_of_slowest_ranks(lpt, lengths)

    def test_reaches_the_bound_where_lpt_needs_more(self):
        lengths = [70, 60, 30, 20, 20]  # 70 + 30 and 60 + 20 + 20
        assert min_steps(lengths, 100, 2) == 1
        assert pack(lengths, 100, 2, "lpt").num_steps == 2
        assert pack(lengths, 100, 2).minibatches == [[[0, 2]], [[1, 3, 4]]]

    def test_fills_bins_exactly_where_best_fit_decreasing_does_not(self):
        lengths = [50, 40, 40, 30, 20, 20]  # best fit pairs 50 + 40, then nothing closes the gap
        assert len(packing._best_fit_bins(list(range(6)), lengths, 100)) == 3
        ours = pack(lengths, 100, 1)
        assert [cost("", members, lengths) for members in ours.minibatches[0]] == [100, 100]

    def test_takes_the_input_order_if_that_happens_to_be_better(self):
        lengths = [27, 28, 38, 35, 25, 38, 40, 24, 30, 43, 48]
        order = sorted(range(11), key=lambda index: -lengths[index])
        assert len(packing._best_fit_bins(order, lengths, 100)) == 5
        assert len(packing._subset_sum_bins(order, lengths, 100)) == 5
        assert pack(lengths, 100, 1).num_steps == 4

    def test_evens_out_the_last_step(self):
        lengths = [90, 70, 40, 30, 20, 10, 10]
        # Full bins first, and 40 beside 20 + 10: the steps take 100 + 40. All bins alike would take 90 + 60.
        assert pack(lengths, 100, 2).minibatches == [[[0, 5], [2]], [[1, 3], [4, 6]]]

    def test_of_packings_that_wait_alike_takes_the_one_with_the_lowest_peak(self):
        assert pack([60, 40, 20], 100, 1).minibatches == [[[0], [1, 2]]]  # not 60 + 40 and 20

    def test_spreads_the_samples_of_a_step_over_all_ranks(self):
        packed = pack([10, 10, 10, 10], 100, 4)
        assert packed.minibatches == [[[0]], [[1]], [[2]], [[3]]]

    @pytest.mark.parametrize(
        "loads",
        [
            [[60, 34, 4], [54, 43], [50, 43], [59, 33], [30, 24, 21, 14]],  # LPT does not fit them into one step again
            [[40, 39, 20], [35, 34, 26], [38, 37]],  # LPT fits them, but the fullest rank is no shorter
        ],
    )
    def test_leaves_a_step_that_evening_out_would_not_help(self, loads):
        lengths = list(itertools.chain(*loads))
        indices = iter(range(len(lengths)))
        bins = [list(itertools.islice(indices, len(load))) for load in loads]
        (step,) = packing._steps_of_bins(bins, lengths, 100, len(bins))
        assert sorted(step) == bins

    @pytest.mark.parametrize(
        ("draw", "limit", "num_ranks"),
        [
            ("uniform", 1000, 4),  # bins that are full as they are
            ("uniform", 40_000, 4),  # room for a lower peak
            ("lognormal", 1003, 16),  # bins nearly full, ranks that would wait
        ],
    )
    def test_a_large_batch_loses_next_to_nothing(self, monkeypatch, draw, limit, num_ranks):
        """Beside filling its bins alike in any case: a thousandth of the time, 3 % of the limit."""
        rng = np.random.default_rng(16)
        drawn = rng.integers(1, 200, 2500) if draw == "uniform" else np.clip(rng.lognormal(5, 0.9, 2500), 2, 1000)
        lengths = drawn.astype(int).tolist()
        assert len(lengths) > packing._ALIKE_SAMPLES
        packed = pack(lengths, limit, num_ranks)
        monkeypatch.setattr(packing, "_ALIKE_SAMPLES", len(lengths))
        alike = pack(lengths, limit, num_ranks)
        assert packed.num_steps == alike.num_steps == min_steps(lengths, limit, num_ranks)
        waited_for = tokens_of_slowest_ranks(packed, lengths) - tokens_of_slowest_ranks(alike, lengths)
        assert waited_for * num_ranks <= 0.001 * sum(lengths)
        peaks = [max(cost("", bin, lengths) for rank in each.minibatches for bin in rank) for each in (packed, alike)]
        assert peaks[0] - peaks[1] <= 0.03 * limit

    @pytest.mark.parametrize("num_ranks", [4, 8])
    @pytest.mark.parametrize("draw", ["lognormal", "uniform"])
    def test_ranks_wait_for_each_other_no_longer_than_with_lpt(self, num_ranks, draw):
        rng = np.random.default_rng(0)
        waited = {"best_fit": 0.0, "lpt": 0.0}
        for _ in range(20):
            lengths = rng.integers(1, 4097, 128) if draw == "uniform" else np.exp(rng.normal(6.3, 0.9, 128)).astype(int)
            lengths = [int(length) for length in np.clip(lengths, 1, 4096)]
            for strategy in waited:
                slots = num_ranks * tokens_of_slowest_ranks(pack(lengths, 4096, num_ranks, strategy), lengths)
                waited[strategy] += 1 - sum(lengths) / slots
        assert waited["best_fit"] < 0.5 * waited["lpt"]

    @pytest.mark.parametrize("num_ranks", [1, 4, 8])
    def test_realistic_batches_reach_the_bound(self, num_ranks):
        rng = np.random.default_rng(0)
        for _ in range(20):
            lengths = np.minimum(rng.lognormal(6.3, 0.9, size=256).astype(int) + 1, 4096)
            assert pack(lengths, 4096, num_ranks).num_steps == min_steps(lengths, 4096, num_ranks)


class TestMinSteps:
    @given(lengths=st.lists(st.integers(1, 20), max_size=7), num_ranks=st.integers(1, 3))
    def test_never_above_what_is_possible(self, lengths, num_ranks):
        assert min_steps(lengths, 20, num_ranks) <= fewest_steps(lengths, 20, num_ranks)

    @given(lengths=batches, num_ranks=ranks)
    def test_at_least_the_tokens_over_the_room_of_a_step(self, lengths, num_ranks):
        assert min_steps(lengths, LIMIT, num_ranks) >= -(-sum(lengths) // (LIMIT * num_ranks))

    @pytest.mark.parametrize(
        ("lengths", "expected"),
        [
            ([], 0),
            ([20], 1),
            ([11, 11, 11], 3),  # 33 tokens fit in 2 bins, but no two of them fit in one
            ([10, 10, 10], 2),
            ([15, 15, 6, 6], 3),  # 42 tokens; the sixes fit beside neither fifteen
            ([14, 14, 6, 6], 2),
            ([20, 20, 1], 3),
        ],
    )
    def test_exact_values(self, lengths, expected):
        assert min_steps(lengths, 20, 1) == expected
        assert min_steps(lengths, 20, 2) == -(-expected // 2)


class TestLeastLoaded:
    def test_greedy_takes_the_input_order_and_the_lowest_rank_on_ties(self):
        # Loads after each sample: 3|0, 3|5, 5|5, 9|5, 9|10, 10|10; the last one closes the step.
        assert pack([3, 5, 2, 4, 5, 1, 6], 10, 2, "greedy").minibatches == [[[0, 2, 3, 5], [6]], [[1, 4], [DUMMY]]]

    def test_lpt_takes_the_longest_first(self):
        # Loads: 7|0, 7|6, 7|11, 11|11; then 3|0, 3|2, 3|3.
        assert pack([1, 2, 3, 4, 5, 6, 7], 11, 2, "lpt").minibatches == [[[6, 3], [2]], [[5, 4], [1, 0]]]

    def test_lpt_keeps_the_input_order_among_equals(self):
        assert pack([5, 5, 5, 5], 10, 2, "lpt").minibatches == [[[0, 2]], [[1, 3]]]


class TestPadded:
    def test_cuts_descending_runs_by_padded_cost(self):
        # Longest 10: two of them fill 20. Then 6 x 3 = 18, then 2 and 1.
        packed = pack([10, 10, 6, 6, 5, 2, 1], 20, 1, "padded")
        assert packed.minibatches == [[[0, 1], [2, 3, 4], [5, 6]]]

    def test_uses_every_rank_instead_of_filling_the_first(self):
        assert pack([4, 4, 4, 4], 100, 4, "padded").minibatches == [[[0]], [[1]], [[2]], [[3]]]

    @given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=5), num_ranks=st.integers(1, 3))
    def test_as_few_steps_as_possible_and_the_smallest_largest_bin(self, lengths, num_ranks):
        packed = pack(lengths, 20, num_ranks, "padded")
        possible = []
        for assignment in itertools.product(range(len(lengths)), repeat=len(lengths)):
            bins = [[i for i, b in enumerate(assignment) if b == a] for a in set(assignment)]
            largest = max(cost("padded", members, lengths) for members in bins)
            if largest <= 20:
                possible.append((-(-len(bins) // num_ranks), largest))
        ours = max(cost("padded", members, lengths) for steps in packed.minibatches for members in steps)
        assert (packed.num_steps, ours) == min(possible)


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (([1, 0], 8, 1), "sample 1 has length 0: every sample needs at least one token"),
            (([1, -3], 8, 1), "sample 1 has length -3"),
            (([1.5], 8, 1), "one integer per sample, got shape .1,. of float64"),
            (([[1, 2]], 8, 1), "one integer per sample"),
            (([1], 0, 1), "max_tokens_per_rank must be an integer >= 1, got 0"),
            (([1], 8.0, 1), "max_tokens_per_rank must be an integer >= 1, got 8.0"),
            (([1], 8, 0), "num_ranks must be an integer >= 1, got 0"),
            (([1], 8, True), "num_ranks must be an integer >= 1, got True"),
            (([1], 8, 1, "ffd"), "strategy 'ffd' is unknown: choose one of best_fit, lpt, greedy, padded"),
            (([1], 8, 1, "lpt", "ignore"), "oversize='ignore' is unknown: choose one of error, drop"),
        ],
    )
    def test_is_named(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            pack(*arguments)


def test_other_processes_pack_alike():
    """Another hash seed, another process: what ranks rely on when they do not communicate."""
    program = (
        "import numpy as np\n"
        "from trainers.data.packing import STRATEGIES, pack\n"
        "lengths = np.random.default_rng(7).integers(1, 500, size=400)\n"
        "print([pack(lengths, 1000, 3, strategy).minibatches for strategy in STRATEGIES])\n"
    )
    root = str(Path(packing.__file__).parents[2])
    results = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join([root, *sys.path])},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    lengths = np.random.default_rng(7).integers(1, 500, size=400)
    assert results == {f"{[pack(lengths, 1000, 3, strategy).minibatches for strategy in STRATEGIES]}\n"}
