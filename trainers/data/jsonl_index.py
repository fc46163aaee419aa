"""Where each sample of a tokenised JSONL file lies and how many tokens it has, found in one pass over the file.

An entry takes 20 bytes, so ten million lines take 200 MB. Lines as `trainers.data.prepare` and json.dumps write them are
checked by a regular expression, which is three times as fast as parsing them; any other line is parsed.
"""

import fcntl
import hashlib
import json
import logging
import multiprocessing
import os
import re
import tempfile
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from trainers.data.minibatch import IGNORE_INDEX

OnBadLine = Literal["error", "skip"]

ENTRY = np.dtype([("offset", "<i8"), ("size", "<u4"), ("tokens", "<i4"), ("counted", "<i4")])
"""Of a line: its first byte, its bytes, its tokens, and how many of ``labels[1:]`` carry loss."""

_log = logging.getLogger(__name__)

_BLOCK_BYTES = 32 << 20
_BAD_LINES_LOGGED = 10

# Numbers of at most nine digits fit an int32, and "-100" is never a part of another number.
_ID = rb"(?:0|[1-9][0-9]{0,8}+)"
_LABEL = rb"(?:-100|" + _ID + rb")"
_PLAIN_LINE = re.compile(
    rb'\{"input_ids": ?\[(' + _ID + rb"(?:, ?" + _ID + rb")*+)\]"
    rb', ?"labels": ?\[(' + _LABEL + rb"(?:, ?" + _LABEL + rb")*+)\]"
    rb'(?:, ?"len": ?(' + _ID + rb"))?"
    rb'(?:, ?"num_loss_counted_tokens": ?(' + _ID + rb"))?\}\s*"
)


def index_jsonl(
    path: Path,
    on_bad_line: OnBadLine = "error",
    num_processes: int = 1,
    cache_dir: Path | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[npt.NDArray[np.void], int]:
    """Find and check every sample of a file.

    Args:
        path: lines of ``{"input_ids": [int, ...], "labels": [int, ...]}``; ``len`` and ``num_loss_counted_tokens`` are
            checked if they are there, other keys and blank lines passed over.
        on_bad_line: ``error`` ends at the first bad line; ``skip`` counts and logs them.
        num_processes: processes that share the work; the result is the same for any number.
        cache_dir: folder that keeps the index of a file without bad lines, found again by path, size, time and inode.
            Processes that ask for the same file wait for the first of them and then share its memory.
        advance: called with the bytes read since its last call.

    Returns:
        Array ``[samples]`` of ``ENTRY``, and how many bad lines were skipped.

    Raises:
        ValueError: if a line is bad, which names file and line, or if the file has no samples.
        OSError: if the file cannot be read.
    """
    if on_bad_line not in get_args(OnBadLine):
        raise ValueError(f"on_bad_line={on_bad_line!r} is unknown: choose one of {', '.join(get_args(OnBadLine))}")
    if num_processes < 1:
        raise ValueError(f"num_processes must be an integer >= 1, got {num_processes}")
    if cache_dir is None:
        return _scan(path, on_bad_line, num_processes, advance)
    cached = cache_dir / f"{_fingerprint(path)}.npy"
    with _locked(cached.with_suffix(".lock")):
        if not cached.exists():
            entries, num_skipped = _scan(path, on_bad_line, num_processes, advance)
            if num_skipped:
                return entries, num_skipped
            _save(cached, entries)
    return np.load(cached, mmap_mode="r"), 0


def parse_sample(line: bytes) -> tuple["array[int]", "array[int]"]:
    """Return ids and labels of a line, each ``[tokens]``.

    Raises:
        ValueError: if the line is not a sample, and why.
    """
    try:
        sample = json.loads(line)
    except (ValueError, RecursionError) as error:  # also bytes that are not UTF-8
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(sample, dict) or not {"input_ids", "labels"} <= sample.keys():
        start = line.strip()[:60].decode(errors="replace")
        raise ValueError(f"expected an object with 'input_ids' and 'labels', got {start!r}")
    ids, labels = _integers(sample, "input_ids"), _integers(sample, "labels")
    if len(ids) != len(labels):
        raise ValueError(f"{len(ids)} input_ids and {len(labels)} labels: each token needs one label")
    if not ids:
        raise ValueError("no tokens: a sample needs at least one")
    if min(ids) < 0:
        raise ValueError(f"negative token id {min(ids)} in 'input_ids'")
    if wrong := [label for label in labels if label < 0 and label != IGNORE_INDEX]:
        raise ValueError(f"label {wrong[0]}: a label is a token id, or {IGNORE_INDEX} for no loss")
    for key, value in (("len", len(ids)), ("num_loss_counted_tokens", len(ids) - 1 - labels[1:].count(IGNORE_INDEX))):
        if sample.get(key, value) != value:
            raise ValueError(f"'{key}' is {sample[key]!r}, but the sample has {value}: correct it, or leave the key out")
    return ids, labels


def _integers(sample: dict[str, Any], key: str) -> "array[int]":
    values = sample[key]
    if isinstance(values, list) and bool not in map(type, values):
        try:
            return array("q", values)
        except (TypeError, OverflowError):
            pass
    raise ValueError(f"'{key}' must be a list of integers of at most 64 bits")


def _measure(line: bytes) -> tuple[int, int]:
    """Return tokens and loss-counted tokens of a line; ValueError if it is bad."""
    if plain := _PLAIN_LINE.fullmatch(line):
        ids, labels, length, counted = plain.groups()
        tokens = ids.count(b",") + 1
        found = tokens - labels.count(b"-100") - (not labels.startswith(b"-100"))
        if (
            labels.count(b",") + 1 == tokens
            and (length is None or int(length) == tokens)
            and (counted is None or int(counted) == found)
        ):
            return tokens, found
    ids, labels = parse_sample(line)
    return len(ids), len(ids) - 1 - labels[1:].count(IGNORE_INDEX)


@dataclass(frozen=True)
class _Block:
    entries: npt.NDArray[np.void]
    num_lines: int
    bad_lines: list[tuple[int, str]]  # line within the block, what is wrong with it


def _scan_block(block: tuple[Path, int, int]) -> _Block:
    """Measure the lines of a file that begin in [start, end)."""
    path, start, end = block
    rows = []
    bad_lines = []
    number = 0
    with path.open("rb") as file:
        if start:
            file.seek(start - 1)
            file.readline()  # of the block before
        offset = file.tell()
        while offset < end and (line := file.readline()):
            number += 1
            if not line.isspace():
                try:
                    rows.append((offset, len(line), *_measure(line)))
                except ValueError as error:
                    bad_lines.append((number, str(error)))
            offset += len(line)
    return _Block(np.array(rows, ENTRY), number, bad_lines)


def _scan(
    path: Path, on_bad_line: OnBadLine, num_processes: int, advance: Callable[[int], None]
) -> tuple[npt.NDArray[np.void], int]:
    size = path.stat().st_size
    blocks = [(path, start, min(start + _BLOCK_BYTES, size)) for start in range(0, size, _BLOCK_BYTES)]
    entries = []
    num_lines = num_skipped = 0
    for (_, start, end), block in zip(blocks, _scan_blocks(blocks, num_processes), strict=True):
        for number, reason in block.bad_lines:
            place = f"{path}:{num_lines + number}"
            if on_bad_line == "error":
                raise ValueError(f"{place}: {reason} (on_bad_line='skip' leaves such lines out)")
            num_skipped += 1
            if num_skipped <= _BAD_LINES_LOGGED:
                _log.warning("left out %s: %s", place, reason)
        num_lines += block.num_lines
        entries.append(block.entries)
        advance(end - start)
    if num_skipped:
        _log.warning("left out %d bad lines of %s", num_skipped, path)
    if not sum(map(len, entries)):
        raise ValueError(f"{path} has no samples: every line is blank or bad, or there is none")
    return np.concatenate(entries), num_skipped


def _scan_blocks(blocks: list[tuple[Path, int, int]], num_processes: int) -> Iterator[_Block]:
    num_processes = min(num_processes, len(blocks))
    if num_processes <= 1:
        yield from map(_scan_block, blocks)
        return
    # A server forks them: this process may hold threads and a GPU, which do not survive a fork.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with context.Pool(num_processes) as pool:
        yield from pool.imap(_scan_block, blocks)


def _fingerprint(path: Path) -> str:
    status = path.stat()
    identity = (ENTRY.descr, str(path.resolve()), status.st_size, status.st_mtime_ns, status.st_ino)
    return hashlib.blake2b(repr(identity).encode(), digest_size=16).hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _save(path: Path, entries: npt.NDArray[np.void]) -> None:
    """Write all or nothing: a process that is killed leaves no index that looks complete."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            np.save(file, entries)
            file.flush()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
