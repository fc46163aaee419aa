"""Packs samples into minibatches: which rank computes which samples in which step.

Terms. A *bin* is what one rank computes at once, a list of sample indices; a *step* is one bin per rank, computed at
the same time, so that its duration is that of its fullest bin. A batch of samples becomes a few steps, and the gradient
is applied after the last one. Two things cost time: the number of steps, and the tokens that the other ranks of a step
wait for.

Every strategy is a pure function of its arguments: ranks that hold the same lengths agree without communication.

========  ==============================================================================================
greedy    input order; each sample to the least loaded rank; a sample that does not fit closes the step
lpt       the same, longest sample first (longest processing time, Graham 1969)
padded    for attention without variable lengths: a bin costs (samples in it) x (its longest sample)
best_fit  ours, the default: never more steps than any of the others, and balanced within each step
========  ==============================================================================================

Equal tokens are not equal work: attention costs a token more in a long sequence. Told how much more, best_fit keeps its
number of steps and spreads the work evenly instead.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from heapq import heapreplace
from itertools import accumulate, chain
from operator import itemgetter
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Strategy = Literal["best_fit", "lpt", "greedy", "padded"]
Oversize = Literal["error", "drop"]
Lengths = Sequence[int] | npt.NDArray[np.integer]

DUMMY = -1
"""Index that stands for a sample without loss, where a rank has nothing to compute in a step."""

_Step = list[list[int]]  # one list of sample indices per rank; an empty one becomes [DUMMY]

# Filling bins exactly takes time as samples squared times the limit: 40 ms for 256 samples and 128k tokens. With more
# samples best fit has enough short ones at hand to come as close.
_SUBSET_SUM_SAMPLES = 256

# Spreading work looks at every bin for each sample: 40 ms for so many looks. Batches above have many samples a bin, and
# the work of bins is more alike.
_LOOKS = 100_000

# Filling bins alike takes half as long as all the rest. Larger batches do without it where it has next to nothing to
# gain.
_ALIKE_SAMPLES = 2048


@dataclass(frozen=True)
class Packing:
    """Result of `pack`.

    Attributes:
        minibatches: ``minibatches[rank][step]`` is the list of sample indices that the rank computes in that step, or
            ``[DUMMY]``; every rank has the same number of steps.
        dropped: indices of the samples above the limit, ascending; empty unless ``oversize="drop"``.
    """

    minibatches: list[list[list[int]]]
    dropped: list[int]

    @property
    def num_steps(self) -> int:
        """Minibatches of each rank."""
        return len(self.minibatches[0])


def pack(
    lengths: Lengths,
    max_tokens_per_rank: int,
    num_ranks: int,
    strategy: Strategy = "best_fit",
    oversize: Oversize = "error",
    quadratic: float = 0.0,
) -> Packing:
    """Distribute a batch of samples over ranks and steps.

    Args:
        lengths: tokens of each sample, all >= 1.
        max_tokens_per_rank: limit of a bin, in tokens (in padded tokens for ``padded``).
        num_ranks: ranks that compute a step together.
        strategy: see the module's table.
        oversize: what to do with a sample longer than the limit: refuse it, or leave it out and list it in
            ``Packing.dropped``.
        quadratic: the work of a sample of n tokens is ``n + quadratic * n**2``; for ``best_fit``.

    Returns:
        A packing in which every sample that is not dropped occurs exactly once and no bin is above the limit. No
        samples give zero steps.

    Raises:
        ValueError: if a sample is above the limit (unless dropped) or empty, or another argument is out of range.
    """
    if strategy not in _STRATEGIES:
        raise ValueError(f"packing strategy {strategy!r} is unknown: choose one of {', '.join(_STRATEGIES)}")
    if oversize not in get_args(Oversize):
        raise ValueError(f"oversize={oversize!r} is unknown: choose one of {', '.join(get_args(Oversize))}")
    _require_positive("max_tokens_per_rank", max_tokens_per_rank)
    _require_positive("num_ranks", num_ranks)
    if not quadratic >= 0:
        raise ValueError(f"quadratic must be >= 0, got {quadratic}: 0 takes the tokens of a sample for its work")
    array = _as_lengths(lengths)
    above = np.flatnonzero(array > max_tokens_per_rank)
    if above.size and oversize == "error":
        raise ValueError(
            f"sample {above[0]} has {array[above[0]]} tokens, above max_tokens_per_rank={max_tokens_per_rank} "
            f"({above.size} of {array.size} samples are): raise the limit to at least {array.max()}, truncate the "
            "samples, or leave them out with oversize='drop'"
        )
    # Longest first, input order among equals. Stability makes the result independent of numpy's sorting internals.
    order = np.argsort(-array, kind="stable")[above.size :]
    steps = []
    if order.size:
        steps = _STRATEGIES[strategy](order.tolist(), array.tolist(), max_tokens_per_rank, num_ranks)
        if quadratic and strategy == "best_fit":
            steps = _spread_work(steps, order.tolist(), array.tolist(), max_tokens_per_rank, quadratic)
    minibatches = [[step[rank] or [DUMMY] for step in steps] for rank in range(num_ranks)]
    return Packing(minibatches, above.tolist())


def min_steps(lengths: Lengths, max_tokens_per_rank: int, num_ranks: int) -> int:
    """Return a number of steps that no packing can go below.

    Bound L2 of Martello and Toth (1990): for a threshold t, samples longer than ``limit - t`` share their bin with
    nothing of length >= t, and what remains needs its sum; the best t counts. t = 0 gives tokens / limit.
    """
    _require_positive("max_tokens_per_rank", max_tokens_per_rank)
    _require_positive("num_ranks", num_ranks)
    ascending = np.sort(_as_lengths(lengths))
    if not ascending.size:
        return 0
    limit = max_tokens_per_rank
    total = np.concatenate(([0], np.cumsum(ascending)))
    half = np.searchsorted(ascending, limit // 2, "right")  # from here on, no two samples share a bin
    threshold = np.unique(np.concatenate(([0], ascending[:half])))
    small = np.searchsorted(ascending, threshold)
    alone = np.searchsorted(ascending, limit - threshold, "right")
    room = (alone - half) * limit - (total[alone] - total[half])
    bins = (ascending.size - half) + np.maximum(-((room - (total[half] - total[small])) // limit), 0)
    return -(-int(bins.max()) // num_ranks)


def _best_fit(order: list[int], lengths: list[int], limit: int, num_ranks: int) -> list[_Step]:
    """Fewest steps first, then the least waiting, then the lowest peak: the best of several packings.

    ``padded`` need not be asked: its bins are consecutive runs of the descending samples, and by induction over the
    runs best-fit decreasing never has more bins open than runs have begun.
    """
    packings = [
        _steps_of_bins(_best_fit_bins(order, lengths, limit), lengths, limit, num_ranks),
        _lpt(order, lengths, limit, num_ranks),
    ]
    bound = min_steps([lengths[index] for index in order], limit, num_ranks)

    def above_bound() -> bool:
        return min(map(len, packings)) > bound

    if above_bound() and len(order) <= _SUBSET_SUM_SAMPLES:
        packings.append(_steps_of_bins(_subset_sum_bins(order, lengths, limit), lengths, limit, num_ranks))
    if above_bound():
        packings.append(_greedy(order, lengths, limit, num_ranks))
    fewest = min(map(len, packings))

    def waiting_then_peak(steps: list[_Step]) -> tuple[int, int]:
        fullest = _loads(list(chain.from_iterable(steps)), lengths).reshape(-1, num_ranks).max(axis=1)
        return int(fullest.sum()), int(fullest.max())

    of_fewest = [(waiting_then_peak(steps), steps) for steps in packings if len(steps) == fewest]
    (waited_for, _), best = min(of_fewest, key=itemgetter(0))
    if fewest == 1:
        return best
    if len(order) > _ALIKE_SAMPLES:
        tokens = sum(map(lengths.__getitem__, order))
        if waited_for * num_ranks < 1.001 * tokens and tokens > 0.97 * limit * fewest * num_ranks:
            return best  # (hardly any waiting, hardly any room for a lower peak)
    # All bins of these steps filled alike, if the limit leaves the room for it: LPT over all of them at once, as it is
    # for one step.
    alike = _lpt(order, lengths, limit, fewest * num_ranks)
    if len(alike) > 1:
        return best
    steps = _steps_of_bins([members for members in alike[0] if members], lengths, limit, num_ranks)
    return min(best, steps, key=waiting_then_peak)


def _spread_work(steps: list[_Step], order: list[int], lengths: list[int], limit: int, quadratic: float) -> list[_Step]:
    """As many steps, in which the ranks wait less for the one with the most work, if there is such a packing.

    LPT over ranks, by work: each sample, longest first, to the rank with the least work that has room for it, and there
    into the bin with the least work. Then a rank's n-th step is its n-th in work, as it is on the other ranks.
    """
    num_ranks = len(steps[0])
    if num_ranks == 1 or len(order) * len(steps) * num_ranks > _LOOKS:
        return steps

    work = [length + quadratic * length**2 for length in lengths]

    def work_of(members: list[int]) -> float:
        return sum(map(work.__getitem__, members))

    def waited_for(steps: list[_Step]) -> float:
        return sum(max(map(work_of, step)) for step in steps)

    bins: list[list[list[int]]] = [[[] for _ in steps] for _ in range(num_ranks)]
    rooms = [[limit] * len(steps) for _ in range(num_ranks)]
    works = [[0.0] * len(steps) for _ in range(num_ranks)]
    for index in order:
        fitting = [
            (sum(works[rank]), works[rank][at], rank, at)
            for rank in range(num_ranks)
            for at in range(len(steps))
            if rooms[rank][at] >= lengths[index]
        ]
        if not fitting:
            return steps
        *_, rank, at = min(fitting)
        bins[rank][at].append(index)
        rooms[rank][at] -= lengths[index]
        works[rank][at] += work[index]
    spread = [list(step) for step in zip(*(sorted(each, key=work_of, reverse=True) for each in bins), strict=True)]
    return min(steps, spread, key=waited_for)


def _best_fit_bins(order: list[int], lengths: list[int], limit: int) -> list[list[int]]:
    """Best-fit decreasing (Johnson 1973): each sample into the fullest bin that still has room for it.

    Bins are kept by the room they have left. There are at most ``limit`` different rooms, so the sorted list stays
    short however many bins there are.
    """
    bins: list[list[int]] = []
    rooms: list[int] = []  # ascending
    bins_with_room: dict[int, list[list[int]]] = {}
    shortest = lengths[order[-1]]
    for index in order:
        length = lengths[index]
        at = bisect_left(rooms, length)
        if at < len(rooms):
            room = rooms[at]
            same_room = bins_with_room[room]
            members = same_room.pop()
            if not same_room:
                del rooms[at]
        else:
            room, members = limit, []
            bins.append(members)
        members.append(index)
        room -= length
        if room >= shortest:
            same_room = bins_with_room.setdefault(room, [])
            if not same_room:
                rooms.insert(bisect_left(rooms, room), room)
            same_room.append(members)
    return bins


def _subset_sum_bins(order: list[int], lengths: list[int], limit: int) -> list[list[int]]:
    """Minimum bin slack (Gupta and Ho 1999): open each bin with the longest sample left, then fill it exactly.

    The fill is the largest subset sum of the remaining lengths that fits. Bit t of an integer says that the sum t can
    be reached; a shift by a length adds one sample to every reachable sum.
    """
    left = list(order)
    bins = []
    while left:
        room = limit - lengths[left[0]]
        keep_room = (2 << room) - 1
        reachable = [1]
        for index in left[1:]:
            reachable.append((reachable[-1] | reachable[-1] << lengths[index]) & keep_room)
            if reachable[-1] >> room:
                break
        chosen = [0]
        fill = reachable[-1].bit_length() - 1
        for at in range(len(reachable) - 1, 0, -1):
            if not reachable[at - 1] >> fill & 1:
                chosen.append(at)
                fill -= lengths[left[at]]
        assert fill == 0
        bins.append([left[at] for at in chosen])
        for at in sorted(chosen, reverse=True):
            del left[at]
    return bins


def _steps_of_bins(bins: list[list[int]], lengths: list[int], limit: int, num_ranks: int) -> list[_Step]:
    """Put bins of like load into the same step, then even out the steps that leave a rank waiting.

    That is a step whose fullest bin could give its shortest sample to the emptiest and be shorter for it: a packing of
    LPT never has one. Evening is LPT over the samples of the step, kept if it fits and helps.
    """
    loads = _loads(bins, lengths).tolist()
    fullest_first = sorted(range(len(bins)), key=loads.__getitem__, reverse=True)
    steps = []
    for start in range(0, len(bins), num_ranks):
        of_step = fullest_first[start : start + num_ranks]
        step = [bins[at] for at in of_step]
        fullest = loads[of_step[0]]
        emptiest = loads[of_step[-1]] if len(step) == num_ranks else 0
        step += [[] for _ in range(num_ranks - len(step))]
        if fullest - emptiest > min(map(lengths.__getitem__, step[0])):
            members = sorted(chain.from_iterable(step), key=lambda index: (-lengths[index], index))
            evened = _lpt(members, lengths, limit, num_ranks)
            if len(evened) == 1 and max(sum(map(lengths.__getitem__, each)) for each in evened[0]) < fullest:
                step = evened[0]
        steps.append(step)
    return steps


def _lpt(order: list[int], lengths: list[int], limit: int, num_ranks: int) -> list[_Step]:
    return _least_loaded(order, lengths, limit, num_ranks)


def _greedy(order: list[int], lengths: list[int], limit: int, num_ranks: int) -> list[_Step]:
    return _least_loaded(sorted(order), lengths, limit, num_ranks)


def _least_loaded(order: Iterable[int], lengths: list[int], limit: int, num_ranks: int) -> list[_Step]:
    """Give samples in order to the least loaded rank, the lowest on ties; start a new step when one does not fit.

    Over the samples in descending order this takes, step after step, the longest prefix that LPT can place.
    """
    steps: list[_Step] = []
    # load * num_ranks + rank in one integer: compares like the pair (load, rank), at half the cost of a tuple.
    heap = [(limit + 1) * num_ranks]
    overfull = (limit + 1) * num_ranks
    for index in order:
        key = heap[0] + lengths[index] * num_ranks
        if key >= overfull:
            step: _Step = [[] for _ in range(num_ranks)]
            steps.append(step)
            heap = list(range(num_ranks))
            key = lengths[index] * num_ranks
        heapreplace(heap, key)
        step[key % num_ranks].append(index)
    return steps


def _padded(order: list[int], lengths: list[int], limit: int, num_ranks: int) -> list[_Step]:
    """Cut the samples, longest first, into runs; the fewest steps, then the smallest largest bin.

    Filling each bin with as many as its longest sample allows gives the fewest bins: any packing can be sorted into
    runs without a bin growing. The smallest limit with which the steps stay as few spreads the samples over the bins
    that would be dummies.
    """
    descending = [lengths[index] for index in order]

    def starts(limit: int) -> list[int]:
        cuts = [0]
        while cuts[-1] < len(order):
            cuts.append(cuts[-1] + limit // descending[cuts[-1]])
        return cuts[:-1]

    num_steps = -(-len(starts(limit)) // num_ranks)
    low = descending[0]
    smallest = low + bisect_left(range(low, limit), True, key=lambda limit: len(starts(limit)) <= num_steps * num_ranks)
    cuts = starts(smallest)
    bins = [order[start:end] for start, end in zip(cuts, [*cuts[1:], len(order)], strict=True)]
    bins += [[] for _ in range(num_steps * num_ranks - len(bins))]
    return [bins[at : at + num_ranks] for at in range(0, len(bins), num_ranks)]


def _loads(bins: list[list[int]], lengths: list[int]) -> npt.NDArray[np.int64]:
    """Return the tokens of each bin, as differences of one running sum."""
    total = np.fromiter(chain((0,), map(lengths.__getitem__, chain.from_iterable(bins))), np.int64).cumsum()
    bounds: npt.NDArray[np.int64] = total[np.fromiter(accumulate(map(len, bins), initial=0), np.int64)]
    return bounds[1:] - bounds[:-1]


def _as_lengths(lengths: Lengths) -> npt.NDArray[np.int64]:
    array = np.asarray(lengths if len(lengths) else np.zeros(0, np.int64))
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"lengths must be one integer per sample, got shape {array.shape} of {array.dtype}")
    if array.size and array.min() < 1:
        index = int(np.argmax(array < 1))
        raise ValueError(f"sample {index} has length {array[index]}: every sample needs at least one token, remove it")
    return array.astype(np.int64)


def _require_positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be an integer >= 1, got {value!r}")


_STRATEGIES: dict[str, Callable[[list[int], list[int], int, int], list[_Step]]] = {
    "best_fit": _best_fit,
    "lpt": _lpt,
    "greedy": _greedy,
    "padded": _padded,
}
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
