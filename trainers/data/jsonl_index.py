"""Where each sample of a tokenised JSONL file lies and how many tokens it has, found in one pass over the file.

An entry takes 20 bytes, so ten million lines take 200 MB. Lines as `trainers.data.prepare` and json.dumps write them
are checked by a regular expression, which is twice as fast as parsing them; any other line is parsed.
"""

import fcntl
import hashlib
import re
from array import array
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainers.data.atomic_write import atomic_write
from trainers.data.json_line import parse_line
from trainers.data.jsonl_blocks import BadLines, FileBlock, OnBadLine, blocks_of, map_in_processes
from trainers.data.minibatch import IGNORE_INDEX

ENTRY = np.dtype([("offset", "<i8"), ("size", "<u4"), ("tokens", "<i4"), ("counted", "<i4")])
"""Of a line: its first byte, its bytes, its tokens, and how many of ``labels[1:]`` carry loss."""

_BLOCK_BYTES = 32 << 20


def _line_with(comma: bytes) -> re.Pattern[bytes]:
    """Return the form of a line: ids, labels, and perhaps ``len`` and ``num_loss_counted_tokens``.

    Numbers of at most nine digits fit an int32, and "-100" is never a part of another number. What is frequent stands
    first, and the comma is given, because the expression is most of the time that a file takes.
    """
    token, label = rb"(?:[1-9][0-9]{0,8}+|0)", rb"(?:[1-9][0-9]{0,8}+|-100|0)"
    return re.compile(
        rb'\{"input_ids": ?\[(%b(?:%b%b)*+)\]' % (token, comma, token)
        + rb', ?"labels": ?\[(%b(?:%b%b)*+)\]' % (label, comma, label)
        + rb'(?:, ?"len": ?(%b))?(?:, ?"num_loss_counted_tokens": ?(%b))?\}\s*' % (token, token)
    )


_AS_JSON_DUMPS = _line_with(b", ")
_AS_PREPARE = _line_with(b",")


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
        cache_dir: folder that keeps the index of a file without bad lines, found again by path, size, time and inode;
            of a file that changes meanwhile it keeps nothing.
            Processes that ask for the same file wait for the first of them and then share its memory.
        advance: called with the bytes read since its last call.

    Returns:
        Array ``[samples]`` of ``ENTRY``, and how many bad lines were skipped.

    Raises:
        ValueError: if a line is bad, which names file and line, or if the file has no samples.
        OSError: if the file cannot be read.
    """
    if cache_dir is None:
        return _scan(path, on_bad_line, num_processes, advance)
    fingerprint = _fingerprint(path)
    cached = cache_dir / f"{fingerprint}.npy"
    with _locked(cached.with_suffix(".lock")):
        if not cached.exists():
            entries, num_skipped = _scan(path, on_bad_line, num_processes, advance)
            if num_skipped or _fingerprint(path) != fingerprint:
                return entries, num_skipped
            with atomic_write(cached) as file:
                np.save(file, entries)
    return np.load(cached, mmap_mode="r"), 0


def read_sample(line: bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return ids and labels, each int64 ``[tokens]``, of a line that `index_jsonl` found good.

    A line that begins with the two lists is cut at their brackets and read as rows of numbers, which is several
    times as fast as JSON. Nothing needs to be checked again.
    """
    ids_end = line.find(b"]")
    labels_start = line.find(b"[", ids_end)
    if line.startswith(b'{"input_ids":') and line[ids_end:labels_start].replace(b" ", b"") == b'],"labels":':
        ids, labels = line[line.index(b"[") + 1 : ids_end], line[labels_start + 1 : line.index(b"]", labels_start)]
        return np.fromstring(ids, np.int64, sep=","), np.fromstring(labels, np.int64, sep=",")
    parsed = parse_sample(line)
    return np.array(parsed[0]), np.array(parsed[1])


def parse_sample(line: bytes) -> tuple["array[int]", "array[int]"]:
    """Return ids and labels of a line, each ``[tokens]``.

    Raises:
        ValueError: if the line is not a sample, and why.
    """
    sample = parse_line(line)
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
            raise ValueError(
                f"'{key}' is {sample[key]!r}, but the sample has {value}: correct it, or leave the key out"
            )
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
    if plain := _AS_JSON_DUMPS.fullmatch(line) or _AS_PREPARE.fullmatch(line):
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
class _Scanned:
    entries: npt.NDArray[np.void]
    num_lines: int
    bad_lines: list[tuple[int, str]]  # line within the block, what is wrong with it


def _scan_block(block: FileBlock) -> _Scanned:
    rows = []
    bad_lines = []
    number = 0
    for number, (offset, line) in enumerate(block.lines(), start=1):
        if line.isspace():
            continue
        try:
            rows.append((offset, len(line), *_measure(line)))
        except ValueError as error:
            bad_lines.append((number, str(error)))
    return _Scanned(np.array(rows, ENTRY), number, bad_lines)


def _scan(
    path: Path, on_bad_line: OnBadLine, num_processes: int, advance: Callable[[int], None]
) -> tuple[npt.NDArray[np.void], int]:
    blocks = blocks_of(path, _BLOCK_BYTES)
    bad_lines = BadLines(path, on_bad_line)
    entries = []
    with closing(map_in_processes(_scan_block, blocks, num_processes)) as results:
        for block, scanned in zip(blocks, results, strict=True):
            bad_lines.add(scanned.num_lines, scanned.bad_lines)
            entries.append(scanned.entries)
            advance(block.size)
    bad_lines.close()
    if not sum(map(len, entries)):
        raise ValueError(f"{path} has no samples: every line is blank or bad, or there is none")
    return np.concatenate(entries), bad_lines.num_skipped


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
