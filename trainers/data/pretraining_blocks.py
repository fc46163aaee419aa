"""Documents as blocks of equal length: token ids in a memory-mapped file, written and read without filling memory."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import torch

from trainers.data.atomic_write import atomic_write
from trainers.data.minibatch import IGNORE_INDEX, Sample, Tokens

PADDING = -1
"""What stands behind the last document, up to the end of its block: no token id, so that it is never taken for one."""

_LARGEST_ID = np.iinfo(np.int32).max
_TOKENS_AT_ONCE = 1 << 22


def write_pretraining_blocks(documents: Iterable[Tokens], path: Path, block_size: int, eos_token_id: int) -> int:
    """Put documents one after the other, each ending in EOS, and cut them into blocks.

    Args:
        documents: token ids of each document, ``[tokens]``; read one at a time. An EOS that is there is not doubled.
            Empty documents are passed over.
        path: .npy file to write, int32 ``[blocks, block_size]``, all or nothing. ``PADDING`` fills the last block.
        block_size: tokens of a block.
        eos_token_id: end of each document.

    Returns:
        Number of blocks.

    Raises:
        ValueError: if there are no tokens, an id is not one of int32, or an argument is out of range.
        OSError: if the file cannot be written.
    """
    if block_size < 2:
        raise ValueError(f"block_size must be an integer >= 2, got {block_size}: a block of one token predicts nothing")
    if not 0 <= eos_token_id <= _LARGEST_ID:
        raise ValueError(f"eos_token_id must be from 0 to {_LARGEST_ID}, got {eos_token_id}")
    with atomic_write(path) as file:
        _write_header(file, 0, block_size)
        start = file.tell()
        num_blocks = 0
        for blocks in _blocks(documents, block_size, eos_token_id):
            file.write(blocks.data)
            num_blocks += len(blocks)
        if not num_blocks:
            raise ValueError(f"{path}: no document has a token")
        file.seek(0)
        _write_header(file, num_blocks, block_size)
        assert file.tell() == start, "numpy leaves room for a first axis that grows"
    return num_blocks


class PretrainingBlocks:
    """Blocks as a data set; what is read comes from the page cache, which all processes of a node share.

    Args:
        path: file of `write_pretraining_blocks`.
        pad_token_id: id that the model sees in the padding of the last block.

    Attributes:
        lengths: the block size for each block, ``[blocks]``.
        num_loss_counted_tokens: all tokens of a block but its first, without padding, ``[blocks]``.

    Raises:
        ValueError: if the file is not one of blocks, or the pad id is negative.
        OSError: if the file cannot be read.
    """

    def __init__(self, path: Path, pad_token_id: int) -> None:
        if pad_token_id < 0:
            raise ValueError(f"pad_token_id must be >= 0, got {pad_token_id}")
        try:
            self._blocks = np.lib.format.open_memmap(path, mode="r")
        except ValueError as error:
            raise ValueError(f"{path} is not a file of blocks: {error}") from error
        if self._blocks.dtype != np.int32 or self._blocks.ndim != 2 or not self._blocks.size:
            raise ValueError(
                f"{path} is not a file of blocks: it has {self._blocks.dtype} of shape {self._blocks.shape}"
            )
        self._path = path.absolute()
        self._pad_token_id = pad_token_id
        num_blocks, block_size = self._blocks.shape
        self.lengths: npt.NDArray[np.integer] = np.full(num_blocks, block_size, np.int32)
        self.num_loss_counted_tokens: npt.NDArray[np.integer] = self.lengths - 1
        self.num_loss_counted_tokens[-1] = np.count_nonzero(self._blocks[-1, 1:] != PADDING)

    def __reduce__(self) -> tuple[type["PretrainingBlocks"], tuple[Path, int]]:
        return PretrainingBlocks, (self._path, self._pad_token_id)  # pickled, a mapped array would carry its values

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, index: int) -> Sample:
        """Read a block; its ids and labels are int64 ``[block_size]``, the labels those of the ids but in padding."""
        labels = torch.from_numpy(self._blocks[index].astype(np.int64))
        padding = labels == PADDING
        return {
            "input_ids": labels.masked_fill(padding, self._pad_token_id),
            "labels": labels.masked_fill(padding, IGNORE_INDEX),
            "num_loss_counted_tokens": int(self.num_loss_counted_tokens[index]),
        }


def _blocks(documents: Iterable[Tokens], block_size: int, eos_token_id: int) -> Iterator[npt.NDArray[np.int32]]:
    """Yield blocks ``[some, block_size]``, many at once."""
    pending: list[npt.NDArray[np.int32]] = []
    num_pending = 0
    for number, document in enumerate(documents):
        ids = _as_ids(document, number)
        if not ids.size:
            continue
        pending += [ids] if ids[-1] == eos_token_id else [ids, np.array([eos_token_id], np.int32)]
        num_pending += ids.size + (ids[-1] != eos_token_id)
        if num_pending >= max(_TOKENS_AT_ONCE, block_size):
            row = np.concatenate(pending)
            whole = num_pending - num_pending % block_size
            yield row[:whole].reshape(-1, block_size)
            pending, num_pending = [row[whole:]], num_pending - whole
    if num_pending:
        padding = np.full(-num_pending % block_size, PADDING, np.int32)
        yield np.concatenate([*pending, padding]).reshape(-1, block_size)


def _as_ids(document: Tokens, number: int) -> npt.NDArray[np.int32]:
    ids = np.asarray(document if len(document) else np.zeros(0, np.int32))
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise ValueError(f"document {number} must be one row of integers, got shape {ids.shape} of {ids.dtype}")
    if ids.size and (ids.min() < 0 or ids.max() > _LARGEST_ID):
        raise ValueError(
            f"document {number} has ids from {ids.min()} to {ids.max()}: they must be from 0 to {_LARGEST_ID}"
        )
    return ids.astype(np.int32)


def _write_header(file: BinaryIO, num_blocks: int, block_size: int) -> None:
    shape = (num_blocks, block_size)
    np.lib.format.write_array_header_1_0(file, {"descr": "<i4", "fortran_order": False, "shape": shape})
