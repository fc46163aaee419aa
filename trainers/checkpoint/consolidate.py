"""From a full state to a folder that transformers loads, on one machine, however many ranks saved it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import nn
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainers.checkpoint.full_state import MODEL
from trainers.checkpoint.module_state import all_tensors, without_aliases
from trainers.checkpoint.store import Checkpoint, sync
from trainers.checkpoint.tensor_files import check_tensors, load_tensors, saved_tensors
from trainers.checkpoint.transformers_format import write_transformers
from trainers.parallel.ranks import Ranks


def consolidate(
    checkpoint: Checkpoint,
    model: PreTrainedModel,
    folder: Path,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    dtype: torch.dtype | None = None,
    max_shard_gb: float = 5.0,
) -> None:
    """Write the model of a full state in the format of transformers; this process alone, without an accelerator.

    Memory: one shard and one tensor. The folder appears when it is complete.

    Args:
        checkpoint: of a `FullStateSaver`.
        model: gives configuration and names; its weights are not used and may be on the meta device.
        folder: made here.
        tokenizer: written too.
        dtype: of floating-point tensors; None leaves each as it was saved.
        max_shard_gb: size of a file in 10**9 bytes.

    Raises:
        ValueError: the folder exists; or the checkpoint is of another model, with the names that differ.
        RankError: files cannot be read or written.
    """
    saved = saved_tensors(checkpoint.path, MODEL)
    wanted = without_aliases(all_tensors(model))
    check_tensors(wanted, saved, str(checkpoint.path), dtypes=False)
    state = _read_each(checkpoint.path, {name: saved[name] for name in wanted})
    write_folder(model, folder, state, tokenizer=tokenizer, dtype=dtype, max_shard_gb=max_shard_gb)


def load_weights(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Read the model of a full state in place, and nothing else of it: adapters or factors, to be merged.

    Raises:
        ValueError: the checkpoint is of another model, with the names that differ.
        RankError: files cannot be read.
    """
    tensors = without_aliases(all_tensors(model))
    check_tensors(tensors, saved_tensors(checkpoint.path, MODEL), str(checkpoint.path))
    load_tensors({MODEL + name: tensor.detach() for name, tensor in tensors.items()}, checkpoint.path, Ranks.alone())


def write_folder(
    model: PreTrainedModel,
    folder: Path,
    state: Iterable[tuple[str, torch.Tensor]],
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    dtype: torch.dtype | None = None,
    max_shard_gb: float = 5.0,
) -> None:
    """Make a folder of `write_transformers` on this machine alone; it appears when it is complete.

    Raises:
        ValueError: the folder exists.
        RankError: it cannot be written.
    """
    folder = Path(folder)
    if folder.exists():
        raise ValueError(f"{folder} exists: give a folder that does not, or remove it")
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        alone = Ranks.alone()
        alone.each(
            lambda: write_transformers(
                model,
                unfinished,
                state=state,
                tokenizer=tokenizer,
                dtype=dtype,
                max_shard_gb=max_shard_gb,
                ranks=alone,
            )
        )
        for path in (unfinished, *unfinished.rglob("*")):
            sync(path)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    sync(folder.parent)


def _read_each(folder: Path, saved: Mapping[str, TensorStorageMetadata]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, entry in saved.items():
        tensor = torch.empty(entry.size, dtype=entry.properties.dtype)
        load_tensors({MODEL + name: tensor}, folder, Ranks.alone())
        yield name, tensor
