"""Work that the ranks do together: it succeeds on all of them or fails on all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")


class RankError(RuntimeError):
    """What the ranks did together failed; the same error, naming ranks and causes, is raised on every rank."""


class Ranks:
    """The ranks that do something together; without a process group, this process alone.

    Every method is a collective, so that a `Ranks` belongs to one thread at a time.

    Attributes:
        group: the process group, or None for a process alone.
        rank: this process among them, from 0.
        world_size: how many they are.
    """

    def __init__(self, group: dist.ProcessGroup | None = None):
        if group is None and dist.is_initialized():
            group = dist.group.WORLD
        self.group = group
        self.rank = 0 if group is None else dist.get_rank(group)
        self.world_size = 1 if group is None else dist.get_world_size(group)

    @classmethod
    def alone(cls) -> Ranks:
        """Return this process alone, whatever process group there is."""
        ranks = cls.__new__(cls)
        ranks.group, ranks.rank, ranks.world_size = None, 0, 1
        return ranks

    @classmethod
    def of_their_own(cls) -> Ranks:
        """Return all ranks in a new gloo group, whose collectives cannot meet those of the training.

        That makes it safe to use from a second thread, and needs no accelerator. A collective: call it on every rank.
        """
        return cls(dist.new_group(backend="gloo") if dist.is_initialized() else None)

    def each(self, work: Callable[[], T]) -> T:
        """Call ``work`` on every rank and return this rank's own result; also a barrier.

        Raises:
            RankError: on every rank, if it raised on any: with the ranks and what they raised.
        """
        result, error = None, None
        try:
            result = work()
        except Exception as caught:
            error = caught
        texts = self._gather(None if error is None else _describe(error))
        ranks_of: dict[str, list[int]] = {}
        for rank, text in enumerate(texts):
            if text is not None:
                ranks_of.setdefault(text, []).append(rank)
        if ranks_of:
            raise RankError("; ".join(f"{_name(ranks)}: {text}" for text, ranks in ranks_of.items())) from error
        return result  # type: ignore[return-value]  # work returned a T

    def together(self, work: Callable[[], T]) -> list[T]:
        """Call ``work`` on every rank and return all results, by rank; errors as in `each`."""
        return self._gather(self.each(work))

    def first(self, work: Callable[[], T]) -> T:
        """Call ``work`` on rank 0 and return its result on every rank; errors as in `each`."""
        result = self.together(lambda: work() if self.rank == 0 else None)[0]
        return result  # type: ignore[return-value]  # rank 0 returned a T

    def _gather(self, value: Any) -> list[Any]:
        if self.group is None:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.group)
        return values


def _describe(error: Exception) -> str:
    return str(error) if isinstance(error, RankError) else f"{type(error).__name__}: {error}"


def _name(ranks: list[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
