"""Grouped-query attention on tensor parallel ranks: which rank holds which query and key-value heads. Pure arithmetic.

With fewer key-value heads than ranks, each is held m times (``kv_size_multiplier``), so that the K * m copies, here
called slots, split evenly. Slot s belongs to rank s // n, and a rank's queries are those that attend its slots.

    H  num_heads          query heads                g = H / (K * m)   queries of a slot
    K  num_kv_heads       key-value heads            G = H / K         queries of a key-value head
    m  kv_size_multiplier copies of each             n = K * m / tp    slots of a rank
    tp tp_size            ranks

Two layouts say which head k and which copy c of it slot s is; that copy serves the queries k * G + c * g + [0..g):

    tiled      K0 K1 .. K0 K1 ..     k = s % K,  c = s // K
    adjacent   K0 K0 .. K1 K1 ..     k = s // m, c = s % m     (queries stay in their natural order)

Grouped-query attention: Ainslie et al., arXiv 2305.13245.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal


def needs_kv_copies(num_kv_heads: int, tp_size: int) -> bool:
    """Whether key-value heads do not split evenly over the ranks, so that a plain column parallel layer cannot."""
    return num_kv_heads % tp_size != 0


def default_kv_size_multiplier(num_kv_heads: int, tp_size: int) -> int:
    """Copies of each key-value head that give every rank one, or 1 where there are at least as many heads as ranks."""
    return max(1, tp_size // num_kv_heads)


@dataclass(frozen=True)
class GQALayout:
    """Where every query head and every copy of a key-value head lives. Attributes as in the module's legend.

    Args:
        num_heads: H, query heads; a multiple of K * m.
        num_kv_heads: K, key-value heads.
        tp_size: ranks that share the heads; K * m must be a multiple of it.
        kv_size_multiplier: m, copies of each key-value head; ``tp_size`` must be a multiple of it. 0 chooses
            :func:`default_kv_size_multiplier`.
        order: ``"tiled"`` or ``"adjacent"`` (which Trainium 2 wants).

    Raises:
        ValueError: the heads do not split; the message names H, K, tp and m, and an m that does where there is one.
    """

    num_heads: int
    num_kv_heads: int
    tp_size: int
    kv_size_multiplier: int = 0
    order: Literal["tiled", "adjacent"] = "tiled"

    def __post_init__(self) -> None:
        """Choose m where it was left open and reject what does not split."""
        if self.order not in ("tiled", "adjacent"):
            raise ValueError(f"unknown layout order {self.order!r}; use 'tiled' or 'adjacent'")
        sizes = (self.num_heads, self.num_kv_heads, self.tp_size)
        if any(size < 1 for size in sizes) or self.kv_size_multiplier < 0:
            raise ValueError(f"{self._names()}: all must be positive")
        if self.kv_size_multiplier == 0:
            object.__setattr__(self, "kv_size_multiplier", default_kv_size_multiplier(self.num_kv_heads, self.tp_size))
        problem = _problem(*sizes, self.kv_size_multiplier)
        if problem:
            fitting = [m for m in range(1, self.tp_size + 1) if not _problem(*sizes, m)]
            mend = f"kv_size_multiplier={fitting[0]} fits" if fitting else "no kv_size_multiplier fits: change tp_size"
            raise ValueError(f"{self._names()}: {problem}; {mend}")

    def _names(self) -> str:
        return (
            f"num_heads={self.num_heads}, num_kv_heads={self.num_kv_heads}, tp_size={self.tp_size}, "
            f"kv_size_multiplier={self.kv_size_multiplier}"
        )

    @property
    def num_slots(self) -> int:
        """K * m: copies of key-value heads over all ranks."""
        return self.num_kv_heads * self.kv_size_multiplier

    @property
    def slots_per_rank(self) -> int:
        """n: copies of key-value heads that a rank holds."""
        return self.num_slots // self.tp_size

    @property
    def queries_per_slot(self) -> int:
        """g: query heads that attend one copy of a key-value head."""
        return self.num_heads // self.num_slots

    def head_and_copy(self, slot: int) -> tuple[int, int]:
        """Which key-value head a slot holds, and which of its copies: (k, c)."""
        if self.order == "tiled":
            copy, head = divmod(slot, self.num_kv_heads)
        else:
            head, copy = divmod(slot, self.kv_size_multiplier)
        return head, copy

    def _slots(self, rank: int) -> range:
        if not 0 <= rank < self.tp_size:
            raise ValueError(f"rank {rank} is not one of the {self.tp_size} tensor parallel ranks")
        return range(rank * self.slots_per_rank, (rank + 1) * self.slots_per_rank)

    def kv_heads(self, rank: int) -> tuple[int, ...]:
        """Key-value head of each slot of ``rank``: length n; a head may repeat."""
        return tuple(self.head_and_copy(slot)[0] for slot in self._slots(rank))

    def query_heads(self, rank: int) -> tuple[int, ...]:
        """Query heads of ``rank``, length n * g; the first g attend its first slot, and so on."""
        return tuple(query for slot in self._slots(rank) for query in self._queries(slot))

    def _queries(self, slot: int) -> Iterator[int]:
        head, copy = self.head_and_copy(slot)
        first = head * (self.num_heads // self.num_kv_heads) + copy * self.queries_per_slot
        return iter(range(first, first + self.queries_per_slot))

    def query_order(self) -> tuple[int, ...]:
        """Query head at each position of the ranks' heads joined in rank order: a permutation of H heads.

        Rows of the whole query weight, and columns of the output projection that follows attention, are taken in this
        order before they are split.
        """
        return tuple(query for rank in range(self.tp_size) for query in self.query_heads(rank))

    def inverse_query_order(self) -> tuple[int, ...]:
        """Position of each query head in :meth:`query_order`: taking the joined heads in this order restores them."""
        return tuple(sorted(range(self.num_heads), key=self.query_order().__getitem__))

    def first_slots(self) -> tuple[int, ...]:
        """A slot of each key-value head: taking the joined slots in this order leaves each head once, in order."""
        slots = [head for rank in range(self.tp_size) for head in self.kv_heads(rank)]
        return tuple(slots.index(head) for head in range(self.num_kv_heads))

    def shared_groups(self) -> tuple[tuple[int, ...], ...]:
        """Ranks that hold copies of the same key-value heads, so that they sum the gradients of these.

        The groups are disjoint, of equal size, and no head is held in two of them. A group of one rank sends nothing.
        """
        if self.order == "tiled":
            # A whole number of ranks, tp / m, holds one copy of every head; the next as many hold the next copy.
            apart = self.tp_size // self.kv_size_multiplier
            return tuple(tuple(range(first, self.tp_size, apart)) for first in range(apart))
        # Ranks begin every n slots and heads every m: both at once every lcm(n, m).
        size = math.lcm(self.slots_per_rank, self.kv_size_multiplier) // self.slots_per_rank
        return tuple(tuple(range(first, first + size)) for first in range(0, self.tp_size, size))

    def shared_group(self, rank: int) -> tuple[int, ...]:
        """The group of :meth:`shared_groups` that ``rank`` is in."""
        return next(group for group in self.shared_groups() if rank in group)

    def shared_heads(self, rank: int) -> tuple[int, ...]:
        """The key-value heads that the ranks of :meth:`shared_group` hold among them, each once, in order."""
        return tuple(sorted({head for member in self.shared_group(rank) for head in self.kv_heads(member)}))


def _problem(num_heads: int, num_kv_heads: int, tp_size: int, multiplier: int) -> str:
    """Why these heads do not split, or nothing."""
    if tp_size % multiplier:
        return f"tp_size {tp_size} does not divide by kv_size_multiplier {multiplier}"
    slots = num_kv_heads * multiplier
    if slots % tp_size:
        return f"num_kv_heads * kv_size_multiplier = {slots} does not divide by tp_size {tp_size}"
    if num_heads % slots:
        return f"num_heads {num_heads} does not divide by num_kv_heads * kv_size_multiplier = {slots}"
    return ""
