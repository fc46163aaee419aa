"""What a packing strategy does to a data set, in numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from trainers.data.packing import DUMMY, Lengths, Packing, Strategy, min_steps, pack


@dataclass(frozen=True)
class PackingStats:
    """Sums over all batches of an epoch, and the shares that follow from them.

    A *slot* is a token that a rank could compute: a step has ``num_ranks * max_tokens_per_rank`` of them.

    Attributes:
        strategy: name of the strategy.
        num_steps: steps of all batches.
        min_steps: steps that no strategy can go below.
        num_dummies: bins without a sample.
        num_dropped: samples above the limit.
        fill: mean share of a bin that is tokens of samples; dummies count as empty.
        min_fill: the same of the emptiest bin that is not a dummy.
        padding: share of the computed tokens that is padding; 0 unless padded.
        waiting: share of the ranks' time spent waiting for the fullest rank of the step, with time counted in tokens.
        seconds: time that packing took.
    """

    strategy: Strategy
    num_steps: int
    min_steps: int
    num_dummies: int
    num_dropped: int
    fill: float
    min_fill: float
    padding: float
    waiting: float
    seconds: float


def bin_tokens(packing: Packing, lengths: Lengths, strategy: Strategy) -> list[list[tuple[int, int]]]:
    """Return ``[step][rank]``: tokens of samples in the bin, and tokens computed, more than that where padded."""

    def of_bin(indices: list[int]) -> tuple[int, int]:
        tokens = [int(lengths[index]) for index in indices if index != DUMMY]
        computed = len(tokens) * max(tokens, default=0) if strategy == "padded" else sum(tokens)
        return sum(tokens), computed

    return [[of_bin(indices) for indices in step] for step in zip(*packing.minibatches, strict=True)]


def measure(batches: Sequence[Lengths], max_tokens_per_rank: int, num_ranks: int, strategy: Strategy) -> PackingStats:
    """Pack every batch and add up what came of it; samples above the limit are dropped and counted.

    Args:
        batches: lengths of the samples of each global batch.
        max_tokens_per_rank: limit of a bin in tokens.
        num_ranks: ranks that share a batch.
        strategy: see `trainers.data.packing`.

    Raises:
        ValueError: as `pack`; also if no sample is left.
    """
    bound = dropped = 0
    seconds = 0.0
    steps: list[list[tuple[int, int]]] = []
    for lengths in batches:
        start = perf_counter()
        packing = pack(lengths, max_tokens_per_rank, num_ranks, strategy, oversize="drop")
        seconds += perf_counter() - start
        bound += min_steps([n for n in lengths if n <= max_tokens_per_rank], max_tokens_per_rank, num_ranks)
        dropped += len(packing.dropped)
        steps += bin_tokens(packing, lengths, strategy)
    if not steps:
        raise ValueError(f"no sample has at most max_tokens_per_rank={max_tokens_per_rank} tokens: raise the limit")
    bins = [pair for step in steps for pair in step]
    tokens = sum(own for own, _ in bins)
    computed = sum(cost for _, cost in bins)
    in_time = num_ranks * sum(max(cost for _, cost in step) for step in steps)
    return PackingStats(
        strategy=strategy,
        num_steps=len(steps),
        min_steps=bound,
        num_dummies=sum(not own for own, _ in bins),
        num_dropped=dropped,
        fill=tokens / (len(bins) * max_tokens_per_rank),
        min_fill=min(own for own, _ in bins if own) / max_tokens_per_rank,
        padding=1 - tokens / computed,
        waiting=1 - computed / in_time,
        seconds=seconds,
    )
