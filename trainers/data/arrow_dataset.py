"""A tokenised Arrow file as a data set: memory-mapped, so that samples come from the page cache without parsing."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from trainers.data.arrow_file import import_pyarrow, map_arrow
from trainers.data.dataset import samples_that_fit
from trainers.data.minibatch import IGNORE_INDEX, Sample


class ArrowDataset:
    """Samples of an Arrow file, the same as `JsonlDataset` has of the same ids and labels.

    The file is checked once, at construction, and 12 bytes are kept for each sample. Processes share its pages.

    Args:
        path: Arrow's file or stream format, with ``input_ids`` and ``labels``: lists of integers, of one length a row.
            Other columns are passed over.
        max_seq_len: samples with more tokens are left out; ``num_dropped`` says how many.

    Attributes:
        lengths: tokens of each sample, int32 ``[samples]``.
        num_loss_counted_tokens: how many of ``labels[1:]`` of each sample carry loss, int32 ``[samples]``.
        num_dropped: samples longer than ``max_seq_len``.

    Raises:
        ValueError: if a row is bad, which names file and row; if the file is none or has no samples; if pyarrow, an
            extra, is not installed.
        OSError: if the file cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str], max_seq_len: int | None = None) -> None:
        if max_seq_len is not None and max_seq_len < 1:
            raise ValueError(f"max_seq_len must be an integer >= 1, got {max_seq_len}")
        self._arguments = Path(path).absolute(), max_seq_len
        table = map_arrow(self._arguments[0])
        if not {"input_ids", "labels"} <= set(table.column_names):
            raise ValueError(f"{path}: expected the columns 'input_ids' and 'labels', got {table.column_names}")
        if not len(table):
            raise ValueError(f"{path}: no samples")
        self._columns = table["input_ids"], table["labels"]
        measured = []
        for batch in table.select(["input_ids", "labels"]).to_batches():
            try:
                measured.append(_measure(batch.column("input_ids"), batch.column("labels")))
            except _BadRow as error:
                row = sum(len(lengths) for lengths, _ in measured) + error.row
                raise ValueError(f"{path}: row {row}: {error}") from None
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
        lengths, counted = map(np.concatenate, zip(*measured, strict=True))
        fits = samples_that_fit(lengths, max_seq_len, path)
        self.num_dropped = int(np.count_nonzero(~fits))
        self._rows = np.flatnonzero(fits).astype(np.int32)
        self.lengths: npt.NDArray[np.int32] = lengths[fits]
        self.num_loss_counted_tokens: npt.NDArray[np.int32] = counted[fits]

    def __reduce__(self) -> tuple[type["ArrowDataset"], tuple[Path, int | None]]:
        return ArrowDataset, self._arguments  # (pickled, a mapped table would carry its values)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        """Read a sample; its ids and labels are int64 ``[tokens]``."""
        row = int(self._rows[index])
        ids, labels = (torch.from_numpy(column[row].values.to_numpy().astype(np.int64)) for column in self._columns)
        return {
            "input_ids": ids,
            "labels": labels,
            "num_loss_counted_tokens": int(self.num_loss_counted_tokens[index]),
        }


class _BadRow(ValueError):
    """What is wrong with a row of a batch."""

    def __init__(self, row: int, what: str) -> None:
        super().__init__(what)
        self.row = row


def _measure(ids: Any, labels: Any) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Check a batch; return tokens and loss-counted tokens of its rows, each int32 ``[rows]``."""
    (id_values, id_offsets), (label_values, label_offsets) = _lists("input_ids", ids), _lists("labels", labels)
    lengths = np.diff(id_offsets)
    for row in np.flatnonzero(lengths != np.diff(label_offsets))[:1]:
        num_labels = label_offsets[row + 1] - label_offsets[row]
        raise _BadRow(int(row), f"{lengths[row]} input_ids and {num_labels} labels: each token needs one label")
    for row in np.flatnonzero(lengths == 0)[:1]:
        raise _BadRow(int(row), "no tokens: a sample needs at least one")
    for at in np.flatnonzero(id_values < 0)[:1]:
        raise _BadRow(_row_of(at, id_offsets), f"negative token id {id_values[at]} in 'input_ids'")
    counts = label_values != IGNORE_INDEX
    for at in np.flatnonzero(counts & (label_values < 0))[:1]:
        raise _BadRow(
            _row_of(at, label_offsets),
            f"label {label_values[at]}: a label is a token id, or {IGNORE_INDEX} for no loss",
        )
    starts = label_offsets[:-1]
    # (the first token of a sequence is predicted from nothing)
    counted = np.add.reduceat(counts, starts, dtype=np.int32) - counts[starts]
    return lengths.astype(np.int32), counted.astype(np.int32)


def _lists(name: str, column: Any) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]]:
    """Return the values of a column of lists, without copying, and where each list begins and the last ends."""
    types = import_pyarrow().types
    kind = column.type
    if not (types.is_list(kind) or types.is_large_list(kind)) or not types.is_integer(kind.value_type):
        raise ValueError(f"'{name}' must be lists of integers, got {kind}")
    offsets = column.offsets.to_numpy()
    values = column.values.slice(offsets[0], offsets[-1] - offsets[0])
    if column.null_count or values.null_count:
        raise ValueError(f"'{name}' has nulls: give every sample all of its tokens")
    return values.to_numpy(), offsets - offsets[0]


def _row_of(position: int, offsets: npt.NDArray[np.integer]) -> int:
    return int(np.searchsorted(offsets, position, side="right")) - 1
