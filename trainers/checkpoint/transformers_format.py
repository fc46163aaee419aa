"""Write a folder that ``transformers.AutoModelForCausalLM.from_pretrained`` loads, from a model on any number of ranks.

Tensors are gathered one by one, and the ranks take turns at holding a shard: none ever holds more than one shard and
one tensor, and as many shards are written at a time as there are ranks.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainers.checkpoint.module_state import all_tensors, plain_model, without_aliases
from trainers.parallel.ranks import Ranks

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


def write_transformers(
    model: torch.nn.Module,
    folder: Path,
    *,
    state: Iterable[tuple[str, torch.Tensor]] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    dtype: torch.dtype | None = None,
    max_shard_gb: float = 5.0,
    ranks: Ranks | None = None,
) -> list[str]:
    """Write configuration, weights and tokenizer, and return the names of the files that this rank wrote.

    A collective, made to be called by `CheckpointStore.save`. Values are exact, or rounded once to ``dtype``.

    Args:
        model: a `PreTrainedModel`, plain, DistributedDataParallel or FSDP2.
        folder: exists, on a file system that all ranks see.
        state: names and tensors to write in place of the model's, such as merged adapters; read one at a time, the same
            on every rank.
        tokenizer: written too.
        dtype: of floating-point tensors; None leaves each as it is.
        max_shard_gb: size of a file in 10**9 bytes; a tensor above it gets a file of its own.
        ranks: who writes; default: all.

    Raises:
        ValueError: it is no transformers model; or its configuration ties weights that are two tensors, one of which
            would be lost.
    """
    plain = plain_model(model)
    if not isinstance(plain, PreTrainedModel):
        raise ValueError(f"the model is a {type(plain).__name__}: only models of transformers have this format")
    ranks = ranks or Ranks()
    shards = _Shards(folder, int(max_shard_gb * 1e9), ranks)
    for name, tensor in _tied_once(plain) if state is None else state:
        shards.add(name, tensor.detach(), dtype if tensor.is_floating_point() else tensor.dtype)
    names = shards.finish()
    if ranks.rank == 0:
        names += _write_configuration(plain, folder, shards.dtype, tokenizer)
    return names


class _Shards:
    """Fills shards with tensors in order; shard ``i`` is held and written by rank ``i`` modulo their number."""

    def __init__(self, folder: Path, max_bytes: int, ranks: Ranks):
        self.dtype: torch.dtype | None = None  # of the first floating-point tensor
        self._folder = folder
        self._max_bytes = max_bytes
        self._ranks = ranks
        self._held: dict[str, torch.Tensor] = {}  # this rank's shard of the present round
        self._error: Exception | None = None
        self._shard = 0
        self._shard_bytes = 0
        self._total_bytes = 0
        self._shard_of: dict[str, int] = {}

    def add(self, name: str, tensor: torch.Tensor, dtype: torch.dtype | None) -> None:
        """Append a tensor, plain or sharded, cast to ``dtype``."""
        dtype = dtype or tensor.dtype
        if dtype.is_floating_point and self.dtype is None:
            self.dtype = dtype
        size = tensor.numel() * dtype.itemsize
        if self._shard_bytes and self._shard_bytes + size > self._max_bytes:
            self._next()
        tensor = tensor.to(dtype)
        if isinstance(tensor, DTensor):
            tensor = tensor.full_tensor()
        if self._ranks.rank == self._shard % self._ranks.world_size:
            # A copy, because safetensors refuses tensors that share memory, and whoever gave it may reuse it.
            self._held[name] = tensor.to("cpu", copy=True).contiguous()
        self._shard_of[name] = self._shard
        self._shard_bytes += size
        self._total_bytes += size

    def finish(self) -> list[str]:
        """Write what is left and return the names of this rank's files, or raise what went wrong on the way."""
        self._flush()
        if self._error:
            raise self._error
        count = self._shard + 1
        mine = range(self._ranks.rank, count, self._ranks.world_size)
        for shard in mine:
            os.rename(self._folder / _unnumbered(shard), self._folder / _shard_name(shard, count))
        names = [_shard_name(shard, count) for shard in mine]
        if self._ranks.rank == 0 and count > 1:
            names.append(INDEX_FILE)
            weight_map = {name: _shard_name(shard, count) for name, shard in self._shard_of.items()}
            index = {"metadata": {"total_size": self._total_bytes}, "weight_map": weight_map}
            (self._folder / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True))
        return names

    def _next(self) -> None:
        if (self._shard + 1) % self._ranks.world_size == 0:
            self._flush()
        self._shard += 1
        self._shard_bytes = 0

    def _flush(self) -> None:
        """Write the shard that this rank holds, while the other ranks write theirs."""
        held, self._held = self._held, {}
        if held and not self._error:
            round_start = self._shard - self._shard % self._ranks.world_size
            path = self._folder / _unnumbered(round_start + self._ranks.rank)
            try:
                save_file(held, path, metadata={"format": "pt"})
            except Exception as error:  # raised at the end: the other ranks wait for this one to gather what is left
                self._error = error


def _unnumbered(shard: int) -> str:
    return f"shard-{shard}.safetensors"  # how many there will be is known at the end


def _shard_name(shard: int, count: int) -> str:
    return SINGLE_FILE if count == 1 else f"model-{shard + 1:05d}-of-{count:05d}.safetensors"


def _tied_once(model: PreTrainedModel) -> Iterable[tuple[str, torch.Tensor]]:
    tensors = all_tensors(model)
    for name, source in model.all_tied_weights_keys.items():
        if name in tensors and source in tensors and tensors[name] is not tensors[source]:
            raise ValueError(
                f"the configuration ties {name} to {source}, and the model has them as two tensors: call "
                "model.tie_weights() before it is wrapped, or set tie_word_embeddings=False"
            )
    return without_aliases(tensors).items()


def _write_configuration(
    model: PreTrainedModel, folder: Path, dtype: torch.dtype | None, tokenizer: PreTrainedTokenizerBase | None
) -> list[str]:
    config = copy.deepcopy(model.config)
    config.dtype = dtype
    # fully_shard makes FSDPLlamaForCausalLM of LlamaForCausalLM.
    config.architectures = [next(each for each in type(model).__mro__ if not issubclass(each, FSDPModule)).__name__]
    # In a folder of its own: files that other ranks are writing now, under passing names, lie beside it.
    with TemporaryDirectory(dir=folder) as own:
        config.save_pretrained(own)
        if model.can_generate() and model.generation_config is not None:
            model.generation_config.save_pretrained(own)
        if tokenizer is not None:
            tokenizer.save_pretrained(own)
        names = [path.relative_to(own).as_posix() for path in Path(own).rglob("*") if path.is_file()]
        for entry in os.listdir(own):
            os.rename(Path(own, entry), folder / entry)
    return names
