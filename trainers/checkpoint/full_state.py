"""The full state of a training, saved in the background, from which it goes on bit by bit as if it had not stopped.

Files of a checkpoint (see `store` for its folder and manifest):

``__R_N.distcp``, ``.metadata``  tensors of model and optimizer, by ``torch.distributed.checkpoint``: any world size
``shared.pt``                    the optimizer's groups and step counts, the scheduler, the caller's progress
``rng-R.pt``                     the generators of rank R

The training stops for as long as it takes to copy the state to the CPU; writing happens in a thread.
"""

from __future__ import annotations

import io
import logging
import pickle
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import nn
from torch.optim import Optimizer

from trainers.checkpoint.module_state import all_tensors, without_aliases
from trainers.checkpoint.optimizer_state import (
    check_groups,
    new_optimizer_tensors,
    optimizer_rest,
    optimizer_tensors,
    set_optimizer_state,
)
from trainers.checkpoint.rng import rng_state, set_rng_state
from trainers.checkpoint.staging import Staging
from trainers.checkpoint.store import Checkpoint, CheckpointStore
from trainers.checkpoint.tensor_files import check_tensors, load_tensors, save_tensors, saved_tensors
from trainers.parallel.ranks import Ranks

MODEL = "model."
"""What the names of a model's tensors begin with in the files."""

_OPTIMIZER = "optimizer."
_SHARED = "shared.pt"

_log = logging.getLogger(__name__)


class Scheduler(Protocol):
    """What has a state as torch's learning rate schedulers do."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Take over a state."""


class FullStateSaver:
    """Saves the full state into a store, one save at a time.

    Args:
        store: its ``ranks`` are used by the saver's thread, so make them by `Ranks.of_their_own`, and leave the store
            alone between `save` and `wait`.
    """

    def __init__(self, store: CheckpointStore):
        self.store = store
        self._staging = Staging()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._reserving: Future[None] | None = None
        self._pending: Future[Checkpoint] | None = None

    def reserve(self, num_bytes: int) -> None:
        """Get memory for ``num_bytes`` of tensors in the background, so that the first save need not wait for it.

        For GPUs, whose states are copied to pinned memory.
        """
        self._reserving = self._thread.submit(self._staging.reserve, num_bytes)

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        scheduler: Scheduler | None = None,
        progress: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Path:
        """Begin to save; when this returns, training may go on and change everything.

        Args:
            step: optimizer steps so far.
            model: plain, DistributedDataParallel or FSDP2 (``fully_shard``).
            optimizer: of the model's parameters.
            scheduler: of the optimizer.
            progress: counters, the sampler's position and the like: plain values and tensors, the same on every rank.
            metadata: for the manifest, see `CheckpointStore.save`.

        Returns:
            The folder in which the checkpoint will be once it is complete.

        Raises:
            RankError: the save before this one failed; this one is not begun.
            ValueError: model or optimizer hold what cannot be saved.
        """
        self.wait()
        tensors = without_aliases(all_tensors(model))
        state = {MODEL + name: tensor.detach() for name, tensor in tensors.items()}
        shared: dict[str, Any] = {"world_size": self.store.ranks.world_size, "progress": dict(progress or {})}
        if scheduler is not None:
            shared["scheduler"] = scheduler.state_dict()
        if optimizer is not None:
            names = {id(tensor): name for name, tensor in tensors.items()}
            shared["optimizer"] = optimizer_rest(optimizer, names)
            state |= {_OPTIMIZER + name: tensor for name, tensor in optimizer_tensors(optimizer, names).items()}
        if self._reserving:
            self._reserving.result()
        place = self.store.place_of_next(step)
        staged = self._staging.copy({"state": state, "shared": shared, "rng": rng_state()})
        self._pending = self._thread.submit(self._write, step, staged, metadata)
        return place

    def wait(self) -> Checkpoint | None:
        """Wait for the save that is under way and return its checkpoint; None if there is none.

        Raises:
            RankError: it failed, on any rank.
        """
        pending, self._pending = self._pending, None
        return pending.result() if pending else None

    def close(self) -> None:
        """Wait, as in `wait`, and end the thread; errors are raised."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _write(self, step: int, staged: Any, metadata: Mapping[str, Any] | None) -> Checkpoint:
        ranks = self.store.ranks

        def write(folder: Path) -> list[str]:
            names = save_tensors(staged["state"], folder, ranks)
            plain = {_rng_name(ranks.rank): staged["rng"]}
            if ranks.rank == 0:
                plain[_SHARED] = staged["shared"]
            for name, value in plain.items():
                _write_plain(folder / name, value)
            return [*names, *plain]

        return self.store.save(step, write, metadata)


def load_full_state(
    checkpoint: Checkpoint,
    model: nn.Module,
    optimizer: Optimizer | None = None,
    scheduler: Scheduler | None = None,
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """Load a full state in place and return the ``progress`` that was saved with it.

    A collective. At the world size of the save, all is restored bit by bit, the generators of each rank included. At
    another one, model and optimizer are resharded, and the generators stay as the caller has seeded them: no choice of
    old streams for new ranks suits every layout (tensor-parallel ranks must share one, others must not).

    Args:
        checkpoint: of `CheckpointStore.latest`, which has read and found it intact.
        model: with the parameters, dtypes and shapes of the saved one; sharded as it pleases.
        optimizer: with the same parameter groups. None leaves its state, as an evaluation would.
        scheduler: of the same kind. None leaves its state.
        ranks: who loads; default: all.

    Raises:
        ValueError: model, optimizer or scheduler are not what was saved: names, shapes, dtypes, groups.
        RankError: on every rank, if any cannot read the files.
    """
    ranks = ranks or Ranks()
    tensors = without_aliases(all_tensors(model))
    shared = ranks.each(lambda: _read_plain(checkpoint.path / _SHARED))
    for what, given in (("optimizer", optimizer), ("scheduler", scheduler)):
        if given is not None and what not in shared:
            raise ValueError(f"{checkpoint.path} was saved without {what}: load it without one")
    saved = ranks.each(lambda: saved_tensors(checkpoint.path, MODEL))
    check_tensors(tensors, saved, str(checkpoint.path))
    state = {MODEL + name: tensor.detach() for name, tensor in tensors.items()}
    moments: dict[str, torch.Tensor] = {}
    if optimizer is not None:
        check_groups(optimizer, {id(tensor): name for name, tensor in tensors.items()}, shared["optimizer"])
        saved = ranks.each(lambda: saved_tensors(checkpoint.path, _OPTIMIZER))
        moments = new_optimizer_tensors({name: each.properties.dtype for name, each in saved.items()}, tensors)
        state |= {_OPTIMIZER + name: tensor for name, tensor in moments.items()}
    load_tensors(state, checkpoint.path, ranks)
    if optimizer is not None:
        set_optimizer_state(optimizer, tensors, moments, shared["optimizer"])
    if scheduler is not None:
        scheduler.load_state_dict(shared["scheduler"])
    if ranks.world_size == shared["world_size"]:
        ranks.each(lambda: set_rng_state(_read_plain(checkpoint.path / _rng_name(ranks.rank))))
    elif ranks.rank == 0:
        _log.warning(
            "%s was saved by %d ranks and is loaded by %d: random number generators stay as they are seeded",
            checkpoint.path,
            shared["world_size"],
            ranks.world_size,
        )
    progress: dict[str, Any] = shared["progress"]
    return progress


def _rng_name(rank: int) -> str:
    return f"rng-{rank}.pt"


def _write_plain(path: Path, value: Any) -> None:
    """Write what `_read_plain` reads, or raise now: a checkpoint that cannot be loaded is none."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    try:
        torch.load(buffer, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path.name} would hold values that cannot be loaded safely; give progress, scheduler and optimizer plain "
            f"numbers, strings, lists, dicts and tensors: {error}"
        ) from None
    path.write_bytes(buffer.getvalue())


def _read_plain(path: Path) -> Any:
    # On the CPU: the optimizer's state goes to its device when it is set.
    return torch.load(path, map_location="cpu", weights_only=True)
