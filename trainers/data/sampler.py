"""Samplers whose order depends only on (length, seed, epoch) and whose position is saved and restored exactly.

Epoch e is ``torch.randperm(length)`` from a generator seeded with ``seed + e``. Nothing else enters, so every rank that
holds the same numbers walks the same order, and no communication is needed to agree on it.
"""

from collections.abc import Iterator, Mapping

import torch
from torch.utils.data import Sampler

# Indices become Python ints block by block: an epoch of ten million as one list would take 400 MB.
_BLOCK = 1 << 16
_LARGEST = 1 << 62  # seed + epoch must stay in 64 bits


def epoch_order(length: int, seed: int, epoch: int) -> torch.Tensor:
    """Return the order of one epoch.

    Args:
        length: number of samples in the data set.
        seed: seed of epoch 0.
        epoch: epoch, counted from 0.

    Returns:
        int64 tensor ``[length]``, a permutation of ``range(length)``.
    """
    generator = torch.Generator()
    generator.manual_seed(seed + epoch)
    return torch.randperm(length, generator=generator)


class EpochSampler(Sampler[int]):
    """Yields the indices of one epoch per iteration, then stands at the start of the next epoch.

    ``for index in sampler`` begins where the state stands: at the start of the epoch, or inside it after
    ``load_state_dict`` or a loop that was left early. With the last index handed out the state is already
    ``(epoch + 1, position 0)``, so a state saved at any moment names exactly one continuation. One iteration at a time:
    two concurrent iterators would share the position.

    Args:
        length: number of samples, >= 0.
        seed: non-negative; epoch e is shuffled with ``seed + e``.
        epoch: epoch to start with, >= 0.

    Raises:
        ValueError: if an argument is negative or not an integer.
    """

    def __init__(self, length: int, seed: int, epoch: int = 0) -> None:
        self._length = _integer("length", length, minimum=0)
        self._seed = _integer("seed", seed, minimum=0)
        self._epoch = _integer("epoch", epoch, minimum=0)
        self._position = 0

    @property
    def epoch(self) -> int:
        """The epoch that the next index belongs to."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of ``epoch``; in the current epoch already, keep the position.

        A resumed run can therefore call ``set_epoch`` at the top of every epoch like a fresh one.
        """
        if _integer("epoch", epoch, minimum=0) != self._epoch:
            self._epoch, self._position = epoch, 0

    def __len__(self) -> int:
        """Samples in a whole epoch, wherever the position stands."""
        return self._length

    def __iter__(self) -> Iterator[int]:
        """Yield the rest of the current epoch."""
        order = epoch_order(self._length, self._seed, self._epoch)[self._position :]
        for index in _integers(order):
            self._position += 1
            if self._position == self._length:
                self._epoch, self._position = self._epoch + 1, 0
            yield index

    def state_dict(self) -> dict[str, int]:
        """Return what ``load_state_dict`` needs: length, seed, epoch and the indices handed out in this epoch."""
        return {"length": self._length, "seed": self._seed, "epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue where ``state`` was taken.

        Raises:
            ValueError: if the state is of another length or seed, or is not a state of this sampler.
        """
        _check_state(state, self.state_dict(), same=("length", "seed"))
        if state["position"] >= max(self._length, 1):
            raise ValueError(
                f"sampler state: position {state['position']} is outside an epoch of {self._length} samples; "
                "the state is damaged, load another checkpoint"
            )
        self._epoch, self._position = state["epoch"], state["position"]


class InfiniteSampler(Sampler[int]):
    """Yields epoch after epoch without end: the orders of ``EpochSampler``, one after the other.

    Args:
        length: number of samples, >= 1.
        seed: non-negative; epoch e is shuffled with ``seed + e``.

    Raises:
        ValueError: if an argument is out of range or not an integer.
    """

    def __init__(self, length: int, seed: int) -> None:
        self._length = _integer("length", length, minimum=1)
        self._seed = _integer("seed", seed, minimum=0)
        self._position = 0

    @property
    def epoch(self) -> int:
        """The epoch that the next index belongs to."""
        return self._position // self._length

    def __iter__(self) -> Iterator[int]:
        """Yield indices for ever, from the current position."""
        while True:
            offset = self._position % self._length
            for index in _integers(epoch_order(self._length, self._seed, self.epoch)[offset:]):
                self._position += 1
                yield index

    def state_dict(self) -> dict[str, int]:
        """Return what ``load_state_dict`` needs: length, seed and the indices handed out since the start."""
        return {"length": self._length, "seed": self._seed, "position": self._position}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue where ``state`` was taken.

        Raises:
            ValueError: if the state is of another length or seed, or is not a state of this sampler.
        """
        _check_state(state, self.state_dict(), same=("length", "seed"))
        self._position = state["position"]


def _integers(order: torch.Tensor) -> Iterator[int]:
    for start in range(0, len(order), _BLOCK):
        yield from order[start : start + _BLOCK].tolist()


def _integer(name: str, value: object, minimum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= _LARGEST:
        raise ValueError(f"sampler: {name} must be an integer from {minimum} to 2**62, got {value!r}")
    return value


def _check_state(state: Mapping[str, int], own: Mapping[str, int], same: tuple[str, ...]) -> None:
    if set(state) != set(own):
        raise ValueError(
            f"sampler state has the keys {sorted(state)}, expected {sorted(own)}: "
            "load it into the kind of sampler that saved it"
        )
    for name in own:
        _integer(f"state[{name!r}]", state[name], minimum=0)
    for name in same:
        if state[name] != own[name]:
            raise ValueError(
                f"sampler state was saved with {name} {state[name]}, this sampler has {name} {own[name]}; "
                f"resume with the data set and seed of the saved run, or start anew without the state"
            )
