"""Copies a state into the host's memory, out of the way of a training that goes on."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

_ALIGNMENT = 64
# A power of two, as torch rounds pinned memory up to one.
_CHUNK = 2**28


class Staging:
    """Copies states of one form, one after the other, into memory that is kept from copy to copy.

    Where there is a GPU the memory is pinned, so that copies to it run at the full speed of the GPU's link. It can be
    had before it is needed (`reserve`).
    """

    def __init__(self) -> None:
        self._pinned = torch.cuda.is_available()
        self._free: list[Tensor] = []  # rests of chunks
        self._places: dict[tuple[Any, ...], Tensor] = {}

    def reserve(self, num_bytes: int) -> None:
        """Get memory for ``num_bytes`` more of tensors."""
        for start in range(0, num_bytes, _CHUNK):
            self._free.append(self._memory(min(_CHUNK, num_bytes - start)))

    def copy(self, state: Any) -> Any:
        """Return a copy of dicts, lists, tuples, tensors (also sharded) and plain values; it is valid until the next.

        All tensors of it are on the CPU, each with a storage of its own size.
        """
        copied = self._copy((), state)
        if self._pinned:
            torch.cuda.current_stream().synchronize()
        return copied

    def _copy(self, path: tuple[Any, ...], value: Any) -> Any:
        if isinstance(value, DTensor):
            # (DTensor.from_local would move the copy back to the devices of the mesh)
            names, context = value.__tensor_flatten__()
            parts = {name: getattr(value, name) for name in names}
            parts["_local_tensor"] = self._copy(path, value.to_local())
            return DTensor.__tensor_unflatten__(parts, context, value.size(), value.stride())
        if isinstance(value, Tensor):
            source = value.detach()
            return self._place(path, source).copy_(source, non_blocking=True)
        if isinstance(value, dict):
            return {key: self._copy((*path, key), each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._copy((*path, at), each) for at, each in enumerate(value))
        return copy.deepcopy(value)

    def _place(self, path: tuple[Any, ...], like: Tensor) -> Tensor:
        """Return where the tensor of this path is copied to."""
        place = self._places.get(path)
        if place is None or place.shape != like.shape or place.dtype != like.dtype:
            if not like.numel():
                return torch.empty(like.shape, dtype=like.dtype)
            # (by numpy: a storage that ends where the tensor does, which DCP writes without another copy)
            taken = torch.from_numpy(self._take(like.nbytes).numpy())
            place = self._places[path] = taken.view(like.dtype).view(like.shape)
        return place

    def _take(self, num_bytes: int) -> Tensor:
        needed = -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
        at = next((at for at, rest in enumerate(self._free) if len(rest) >= needed), None)
        if at is None:
            at = len(self._free)
            self._free.append(self._memory(max(needed, _CHUNK) if self._pinned else needed))
        rest = self._free[at]
        self._free[at] = rest[needed:]
        return rest[:num_bytes]

    def _memory(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=self._pinned)
