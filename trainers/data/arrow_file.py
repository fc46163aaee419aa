"""Tokenised samples in Arrow's file format, by pyarrow, an extra: ``input_ids`` and ``labels``, lists of int32."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from trainers.data.minibatch import Sample

_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


def import_pyarrow() -> Any:
    """Return the package.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        import pyarrow.ipc  # type: ignore[import-untyped]  # keep: an extra
    except ModuleNotFoundError as error:
        raise ValueError(
            "Arrow files need the extra package pyarrow, which is not installed: install it, or use JSONL"
        ) from error
    return pyarrow


def encode_arrow(samples: Sequence[Sample]) -> bytes:
    """Return samples as a record batch, for `arrow_writer`, perhaps of another process."""
    arrow = import_pyarrow()
    columns = [[sample["input_ids"] for sample in samples], [sample["labels"] for sample in samples]]
    batch: bytes = arrow.record_batch(columns, schema=_schema()).serialize().to_pybytes()
    return batch


@contextmanager
def arrow_writer(file: BinaryIO) -> Iterator[Callable[[bytes], None]]:
    """Give what writes the batches of `encode_arrow`; the file is complete when the block ends."""
    arrow = import_pyarrow()
    with arrow.ipc.new_file(file, _schema()) as writer:
        yield lambda batch: writer.write_batch(arrow.ipc.read_record_batch(arrow.py_buffer(batch), _schema()))


def map_arrow(path: Path) -> Any:
    """Return the pyarrow table of a file or, as the package datasets writes it, a stream: mapped, not read.

    Raises:
        ValueError: if it is neither, or not whole.
        OSError: if the file cannot be opened.
    """
    arrow = import_pyarrow()
    source = arrow.memory_map(str(path))
    try:
        try:
            return arrow.ipc.open_file(source).read_all()
        except arrow.ArrowInvalid:
            source.seek(0)
            table = arrow.ipc.open_stream(source).read_all()
            # (a reader takes a stream that was cut off between two batches for a whole one)
            source.seek(-len(_END_OF_STREAM), os.SEEK_END)
            if source.read() != _END_OF_STREAM:
                raise arrow.ArrowInvalid("its writer did not end the stream") from None
            return table
    except (arrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is not an Arrow file, or not a whole one: {error}") from error


def _schema() -> Any:
    arrow = import_pyarrow()
    return arrow.schema({name: arrow.list_(arrow.int32()) for name in ("input_ids", "labels")})
