"""Our packers beside mini_trainer's, in one process: steps, waiting, time, memory.

First it shows that lpt and greedy mean the same in both.
"""

import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import pytest
from matplotlib.figure import Figure
from mini_trainer.batch_packer import batch_lengths_to_minibatches_lpt
from mini_trainer.sampler import batch_lengths_to_minibatches

from trainers.data.benchmarking import LIMIT, lengths_of, peak_bytes, report, seconds
from trainers.data.packing import STRATEGIES, Packing, min_steps, pack
from trainers.data.packing_stats import bin_tokens

DISTRIBUTIONS = ("lognormal(6.3, 0.9)", "uniform", "conversations")
PUBLISHED = {"lpt": batch_lengths_to_minibatches_lpt, "greedy": batch_lengths_to_minibatches}
PACKERS = [("ours", strategy) for strategy in STRATEGIES] + [("mini_trainer", strategy) for strategy in PUBLISHED]


def one_rank(packer: str, strategy: str, limit: int, num_ranks: int, lengths: list[int], rank: int = 0) -> object:
    """What a rank does to know its share."""
    if packer == "ours":
        return pack(lengths, limit, num_ranks, strategy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # mini_trainer's greedy packer says that it is old
        return PUBLISHED[strategy](lengths, limit, num_ranks, rank)


def all_ranks(packer: str, strategy: str, limit: int, num_ranks: int, lengths: list[int]) -> Packing:
    if packer == "ours":
        return pack(lengths, limit, num_ranks, strategy)
    return Packing([one_rank(packer, strategy, limit, num_ranks, lengths, rank) for rank in range(num_ranks)], [])


def loads(packing: Packing, lengths: list[int], strategy: str) -> list[list[int]]:
    return [[computed for _, computed in step] for step in bin_tokens(packing, lengths, strategy)]


def waiting(steps: list[list[int]]) -> float:
    return 1 - sum(map(sum, steps)) / sum(len(step) * max(step) for step in steps)


def test_first_call(capsys):
    rows = [
        {"packer": packer, "s": f"{seconds(partial(one_rank, packer, 'lpt', LIMIT, 8, [1, 2, 3]), 1):.3f}"}
        for packer in ("ours", "mini_trainer")
    ]
    with capsys.disabled():
        report("packing_first_call", rows)


@pytest.mark.parametrize("strategy", PUBLISHED)
def test_our_packer_of_that_name_does_what_the_published_one_does(strategy):
    rng = Random(0)
    for _ in range(500):
        lengths = [rng.randrange(1, 65) for _ in range(rng.randrange(1, 60))]
        num_ranks = rng.randrange(1, 7)
        ours, theirs = (all_ranks(packer, strategy, 64, num_ranks, lengths) for packer in ("ours", "mini_trainer"))
        # Their lpt takes another one of equal lengths, and another one of equally loaded ranks.
        of_steps = [[sorted(step) for step in loads(packing, lengths, strategy)] for packing in (ours, theirs)]
        assert of_steps[0] == of_steps[1]
        if strategy == "greedy":
            assert ours.minibatches == theirs.minibatches


def test_100_batches_of_128_samples(capsys):
    rows = [
        row_of_batches(distribution, num_ranks, packer, strategy)
        for distribution in DISTRIBUTIONS
        for num_ranks in (1, 4, 8)
        for packer, strategy in PACKERS
    ]
    with capsys.disabled():
        report("packing_batches", rows)
    folder = os.environ.get("TEST_UNDECLARED_OUTPUTS_DIR")
    if folder:
        draw(rows, Path(folder, "packing.png"))


def row_of_batches(distribution: str, num_ranks: int, packer: str, strategy: str) -> dict[str, object]:
    limit = 512 if distribution == "conversations" else LIMIT
    batches = [[min(length, limit) for length in lengths_of(distribution, 128, seed)] for seed in range(100)]
    packings = [all_ranks(packer, strategy, limit, num_ranks, batch) for batch in batches]
    share = partial(one_rank, packer, strategy, limit, num_ranks)
    steps = [loads(packing, batch, strategy) for packing, batch in zip(packings, batches, strict=True)]
    num_steps = sum(map(len, steps))
    return {
        "lengths": distribution,
        "limit": limit,
        "ranks": num_ranks,
        "packer": f"{packer}: {strategy}",
        "steps": num_steps,
        "over bound": f"{num_steps / sum(min_steps(batch, limit, num_ranks) for batch in batches) - 1:.1%}",
        "waiting": f"{sum(map(waiting, steps)) / len(steps):.1%}",
        "ms per batch": f"{seconds(lambda: list(map(share, batches)), 3) / len(batches) * 1e3:.2f}",
    }


def draw(rows: list[dict[str, object]], path: Path) -> None:
    figure = Figure(figsize=(12, 4), layout="constrained", dpi=110)
    colors = ["#1b9e77", "#7570b3", "#b0b4ba", "#d9b44a", "#4d4a8c", "#777b80"]
    for ax, distribution in zip(figure.subplots(1, 3, sharey=True), DISTRIBUTIONS, strict=True):
        for at, ((packer, strategy), color) in enumerate(zip(PACKERS, colors, strict=True)):
            name = f"{packer}: {strategy}"
            own = [row for row in rows if row["lengths"] == distribution and row["packer"] == name]
            heights = [float(row["over bound"].rstrip("%")) for row in own]
            bars = ax.bar([group + at * 0.13 for group in range(len(own))], heights, 0.12, color=color, label=name)
            ax.bar_label(bars, [f"{height:.0f}" for height in heights], fontsize=7)
        ax.set_xticks([group + 0.33 for group in range(3)], ["1 rank", "4 ranks", "8 ranks"])
        ax.set_title(distribution)
        ax.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("steps over the lower bound, %")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    figure.savefig(path)


QUADRATIC = 1 / 6900  # of the model of a billion parameters in docs/benchmarks/sft.md


def test_waiting_for_the_rank_with_the_most_work(capsys):
    packers = {
        "ours: best_fit, told of the work": partial(pack, quadratic=QUADRATIC),
        "ours: best_fit": pack,
        "mini_trainer: lpt": lambda lengths, limit, num_ranks: all_ranks(
            "mini_trainer", "lpt", limit, num_ranks, lengths
        ),
    }
    rows = [row_of_work(num_ranks, name, packer) for num_ranks in (2, 4, 8) for name, packer in packers.items()]
    with capsys.disabled():
        report("packing_work", rows)


def row_of_work(num_ranks: int, name: str, packer: Callable[[list[int], int, int], Packing]) -> dict[str, object]:
    batches = [lengths_of("lognormal(6.3, 0.9)", 128, seed, longest=8000) for seed in range(100)]
    packings = [packer(batch, 16384, num_ranks) for batch in batches]
    worked = waited = 0.0
    for packing, batch in zip(packings, batches, strict=True):
        work = [length + QUADRATIC * length**2 for length in batch] + [0.0]  # (the last is a dummy's, of index -1)
        for step in zip(*packing.minibatches, strict=True):
            works = [sum(work[index] for index in members) for members in step]
            worked += sum(works)
            waited += num_ranks * max(works) - sum(works)
    return {
        "ranks": num_ranks,
        "packer": name,
        "steps": sum(packing.num_steps for packing in packings),
        "waiting, of the work": f"{waited / worked:.1%}",
        "ms per batch": f"{seconds(lambda: packer(batches[0], 16384, num_ranks), 9) * 1e3:.2f}",
    }


def test_20000_lengths(capsys):
    rows = [
        row_of_20000(distribution, packer, strategy, partial(one_rank, packer, strategy, LIMIT, 8))
        for distribution in DISTRIBUTIONS
        for packer, strategy in PACKERS
    ]
    with capsys.disabled():
        report("packing_20000", rows)


def row_of_20000(
    distribution: str, packer: str, strategy: str, share: Callable[[list[int]], object]
) -> dict[str, object]:
    lengths = lengths_of(distribution, 20_000)
    result = share(lengths)
    num_steps = result.num_steps if isinstance(result, Packing) else len(result)
    del result
    return {
        "lengths": distribution,
        "packer": f"{packer}: {strategy}",
        "steps": num_steps,
        "over bound": f"{num_steps / min_steps(lengths, LIMIT, 8) - 1:.1%}",
        "peak MB": f"{peak_bytes(lambda: share(lengths)) / 1e6:.0f}",
        "ms": f"{seconds(lambda: share(lengths), 9 if packer == 'ours' else 3) * 1e3:.0f}",
    }
