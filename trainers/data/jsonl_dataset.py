"""A tokenised JSONL file as a data set: any sample is read when asked for, and nothing but an index is in memory."""

import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from trainers.data.dataset import samples_that_fit
from trainers.data.jsonl_blocks import OnBadLine
from trainers.data.jsonl_index import index_jsonl, read_sample
from trainers.data.minibatch import Sample


class JsonlDataset:
    """Samples of a JSONL file, each line ``{"input_ids": [int, ...], "labels": [int, ...]}``.

    The file is checked and indexed once, at construction (see `trainers.data.jsonl_index`). Samples are read with
    ``pread``, so threads and forked processes can share the data set; a pickled one opens the file anew.

    Args:
        path: the file.
        max_seq_len: samples with more tokens are left out; ``num_dropped`` says how many.
        on_bad_line: ``error``, or ``skip`` to leave bad lines out; ``num_skipped`` says how many.
        num_processes: processes that index the file.
        cache_dir: where to keep the index between runs; by default nowhere.
        advance: called with the bytes indexed since its last call.

    Attributes:
        lengths: tokens of each sample, int32 ``[samples]``.
        num_loss_counted_tokens: how many of ``labels[1:]`` of each sample carry loss, int32 ``[samples]``.
        num_dropped: samples longer than ``max_seq_len``.
        num_skipped: bad lines.

    Raises:
        ValueError: if a line is bad, which names file and line, the file has no samples, or it changes meanwhile.
        OSError: if the file cannot be read.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        max_seq_len: int | None = None,
        on_bad_line: OnBadLine = "error",
        num_processes: int = 1,
        cache_dir: Path | None = None,
        advance: Callable[[int], None] = lambda _: None,
    ) -> None:
        if max_seq_len is not None and max_seq_len < 1:
            raise ValueError(f"max_seq_len must be an integer >= 1, got {max_seq_len}")
        self._path = Path(path).absolute()
        self._open()
        self._indexed = self._version()
        entries, self.num_skipped = index_jsonl(self._path, on_bad_line, num_processes, cache_dir, advance)
        if self._version() != self._indexed or not os.path.samestat(os.fstat(self._descriptor), self._path.stat()):
            raise ValueError(f"{self._path} was changed while it was indexed: start again when it is complete")
        fits = samples_that_fit(entries["tokens"], max_seq_len, path)
        self.num_dropped = int(np.count_nonzero(~fits))
        if self.num_dropped:
            entries = entries[fits]
        self._entries = entries
        self.lengths: npt.NDArray[np.int32] = entries["tokens"]
        self.num_loss_counted_tokens: npt.NDArray[np.int32] = entries["counted"]

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Sample:
        """Read a sample; its ids and labels are int64 ``[tokens]``.

        Raises:
            IndexError: if there is no such sample.
            ValueError: if the file was changed after it was indexed.
        """
        if self._version() != self._indexed:
            raise ValueError(
                f"{self._path} was changed after it was indexed: start again, and write new data elsewhere"
            )
        offset, size, _, counted = self._entries[index].item()
        ids, labels = read_sample(os.pread(self._descriptor, size, offset))
        return {
            "input_ids": torch.from_numpy(ids),
            "labels": torch.from_numpy(labels),
            "num_loss_counted_tokens": counted,
        }

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_descriptor"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def _open(self) -> None:
        self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)

    def _version(self) -> tuple[int, int]:
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns
