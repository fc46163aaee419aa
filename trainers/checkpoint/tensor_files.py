"""Tensors in files by ``torch.distributed.checkpoint`` (DCP): each rank writes its shards, any layout reads them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from trainers.checkpoint.listing import listing
from trainers.parallel.ranks import RankError, Ranks

_METADATA = ".metadata"


def save_tensors(tensors: Mapping[str, torch.Tensor], folder: Path, ranks: Ranks) -> list[str]:
    """Write tensors, plain or sharded, into a folder and return the names of the files that this rank wrote.

    A collective. Of a tensor that several ranks hold whole, one writes it. Nothing is flushed to the disk.

    Raises:
        RankError: on every rank, if any could not write.
    """
    _expect_single_process(ranks)
    writer = dcp.FileSystemWriter(folder, sync_files=False)
    try:
        dcp.save(dict(tensors), storage_writer=writer, process_group=ranks.group, no_dist=ranks.group is None)
    except CheckpointException as error:
        raise RankError(_describe(error)) from error
    names = [path.name for path in folder.glob(f"__{ranks.rank}_*.distcp")]
    return [*names, _METADATA] if ranks.rank == 0 else names


def saved_tensors(folder: Path, prefix: str) -> dict[str, TensorStorageMetadata]:
    """Return size and dtype of the tensors in a folder whose names begin with ``prefix``, by the rest of the name."""
    found = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    return {
        name.removeprefix(prefix): entry
        for name, entry in found.items()
        if name.startswith(prefix) and isinstance(entry, TensorStorageMetadata)
    }


def load_tensors(tensors: Mapping[str, torch.Tensor], folder: Path, ranks: Ranks) -> None:
    """Read into tensors, plain or sharded, in place; each rank reads only what it holds.

    A collective.

    Raises:
        RankError: on every rank, if any could not read.
    """
    _expect_single_process(ranks)
    reader = dcp.FileSystemReader(folder)
    try:
        dcp.load(dict(tensors), storage_reader=reader, process_group=ranks.group, no_dist=ranks.group is None)
    except CheckpointException as error:
        raise RankError(_describe(error)) from error


def check_tensors(
    wanted: Mapping[str, torch.Tensor], saved: Mapping[str, TensorStorageMetadata], place: str, *, dtypes: bool = True
) -> None:
    """Raise ``ValueError``, naming them, unless ``place`` holds the wanted tensors and no others."""
    problems = []
    if missing := sorted(wanted.keys() - saved.keys()):
        problems.append(f"it lacks {listing(missing)}")
    if unexpected := sorted(saved.keys() - wanted.keys()):
        problems.append(f"the model lacks {listing(unexpected)}")
    both = sorted(wanted.keys() & saved.keys())
    if misshaped := [
        f"{name} {tuple(saved[name].size)}, in the model {tuple(wanted[name].shape)}"
        for name in both
        if saved[name].size != wanted[name].shape
    ]:
        problems.append(f"shapes differ: {listing(misshaped)}")
    if dtypes and (
        retyped := [
            f"{name} {saved[name].properties.dtype}, in the model {wanted[name].dtype}"
            for name in both
            if saved[name].properties.dtype != wanted[name].dtype
        ]
    ):
        problems.append(f"dtypes differ: {listing(retyped)}")
    if problems:
        raise ValueError(f"{place} is of another model: {'; '.join(problems)}. Build the model as it was saved")


def _expect_single_process(ranks: Ranks) -> None:
    if ranks.group is None:
        # For good, and not for the call: undoing it in a background thread would race with others.
        warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized", UserWarning)


def _describe(error: CheckpointException) -> str:
    return "; ".join(f"rank {rank}: {type(cause).__name__}: {cause}" for rank, (cause, _) in error.failures.items())
