"""A folder of checkpoints in which what looks complete is complete, whenever the machine stopped.

``FOLDER/step-0000000120/`` is a checkpoint: files of any format, and ``manifest.json`` with the size and CRC-32 of
each. It is written into a hidden folder beside its place, file by file flushed to the disk, the manifest last, and then
renamed: readers see all of it or nothing. Deleting renames first, for the same reason. Names that begin with a dot are
work in progress, or what a dead process left of it.

CRC-32 finds what hardware and killed processes do to a file, at several GB/s; it is no protection against forgery.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import re
import shutil
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers.parallel.ranks import RankError, Ranks

MANIFEST = "manifest.json"
FORMAT = 1

_NAME = re.compile(r"step-(\d+)(?:\.(\d+))?")
_WRITING = ".writing-"
_DELETING = ".deleting-"
_LOCK = ".lock"
_CHUNK_BYTES = 1 << 22

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class File:
    """What a manifest says of one file: its size in bytes and the CRC-32 of its contents."""

    size: int
    crc32: int


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose manifest and file sizes are in order.

    Attributes:
        path: its folder.
        step: optimizer steps before it was taken.
        attempt: from 1; a step that is saved again does not overwrite what is there.
        metadata: what its writer noted, values of JSON.
        files: its files, by path relative to the folder.
    """

    path: Path
    step: int
    attempt: int
    metadata: Mapping[str, Any]
    files: Mapping[str, File]


@dataclass(frozen=True)
class PassedOver:
    """Something in the folder that is no checkpoint to use, and why."""

    path: Path
    reason: str


class CheckpointStore:
    """Writes, finds and retires the checkpoints of one run.

    Methods are collectives over ``ranks``. The folder may be local to a machine only if all ranks are on it.

    Args:
        folder: made when the first checkpoint is saved.
        ranks: who writes together.
        keep_last: newest checkpoints that stay, others are deleted once a newer one is complete; None keeps all.
        keep_best: name of a number in the metadata, such as ``"validation_loss"``: the checkpoint in which it is
            smallest stays as well.
    """

    def __init__(
        self, folder: Path, ranks: Ranks | None = None, *, keep_last: int | None = None, keep_best: str | None = None
    ):
        if keep_last is not None and keep_last < 1:
            raise ValueError(f"keep_last is {keep_last}: keep 1 checkpoint or more, or all of them with None")
        self.folder = Path(folder)
        self.ranks = ranks or Ranks()
        self.keep_last = keep_last
        self.keep_best = keep_best

    def save(
        self, step: int, write: Callable[[Path], Iterable[str]], metadata: Mapping[str, Any] | None = None
    ) -> Checkpoint:
        """Write a checkpoint that is complete when this returns, and then retire old ones.

        Args:
            step: optimizer steps so far.
            write: called on every rank with the same empty folder; writes this rank's files and returns their paths
                relative to the folder.
            metadata: values of JSON, noted in the manifest.

        Raises:
            RankError: on every rank, if any rank failed or another process is saving here. What was there
                before is untouched.
        """
        if step < 0:
            raise ValueError(f"step is {step}: steps count from 0")
        with self._writing() as folder:
            written = self.ranks.together(lambda: _seal(folder, write(folder)))
            self.ranks.first(lambda: _write_manifest(folder, step, dict(metadata or {}), written))
            checkpoint = self.ranks.first(lambda: self._publish(folder, step))
            self.ranks.first(lambda: self._retire(checkpoint))
        return checkpoint

    def place_of_next(self, step: int) -> Path:
        """Return the folder that the next checkpoint of a step will be in."""
        return self.ranks.first(lambda: self._free_place(step))

    def scan(self) -> tuple[list[Checkpoint], list[PassedOver]]:
        """Return the checkpoints, oldest first, and everything else that is there.

        Looks at manifests and sizes only: `damage` reads the contents.
        """
        return self.ranks.first(self._scan)

    def latest(self) -> Checkpoint | None:
        """Return the newest checkpoint whose contents are intact, or None; what is passed over is logged by name."""
        checkpoints, passed_over = self.scan()
        for checkpoint in reversed(checkpoints):
            reason = self.damage(checkpoint)
            if reason is None:
                break
            passed_over.append(PassedOver(checkpoint.path, reason))
        else:
            checkpoint = None
        if self.ranks.rank == 0:
            for each in passed_over:
                _log.warning("passed over %s: %s", each.path, each.reason)
        return checkpoint

    def damage(self, checkpoint: Checkpoint) -> str | None:
        """Read all files, each rank its share, and return what is wrong with the first bad one, or None."""
        names = sorted(checkpoint.files, key=lambda name: (checkpoint.files[name].size, name))
        share = names[self.ranks.rank :: self.ranks.world_size]

        def check() -> list[str]:
            found = (_damage(checkpoint.path / name, checkpoint.files[name]) for name in share)
            return [reason for reason in found if reason]

        reasons = sorted(reason for of_rank in self.ranks.together(check) for reason in of_rank)
        return reasons[0] if reasons else None

    @contextmanager
    def _writing(self) -> Iterator[Path]:
        """Lend an empty hidden folder, under a lock that dies with this process; it is gone afterwards."""
        lock: list[int] = []  # of rank 0

        def begin() -> Path:
            _make(self.folder)
            lock.append(_lock(self.folder / _LOCK))
            self._clear_leftovers()
            folder = self.folder / f"{_WRITING}{uuid.uuid4().hex}"
            folder.mkdir()
            return folder

        folder = None
        try:
            folder = self.ranks.first(begin)
            yield folder
        finally:
            if folder is not None and self.ranks.rank == 0:
                shutil.rmtree(folder, ignore_errors=True)
            for descriptor in lock:
                _unlock(descriptor)

    def _clear_leftovers(self) -> None:
        """Delete what dead writers left: we hold the lock, so that no living one owns it."""
        for path in sorted(self.folder.iterdir()):
            if path.name.startswith((_WRITING, _DELETING)):
                shutil.rmtree(path)
                _log.warning("deleted %s: its writer died before it was done", path)

    def _scan(self) -> tuple[list[Checkpoint], list[PassedOver]]:
        checkpoints, passed_over = [], []
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else []:
            try:
                if _NAME.fullmatch(path.name):
                    checkpoints.append(_read(path))
                elif path.name.startswith((_WRITING, _DELETING)):
                    passed_over.append(PassedOver(path, "its writer is at work, or died before it was done"))
            except ValueError as error:
                passed_over.append(PassedOver(path, str(error)))
        return sorted(checkpoints, key=lambda each: (each.step, each.attempt)), passed_over

    def _free_place(self, step: int) -> Path:
        # (past the last one: a former attempt that is deleted would leave its number to a newer one)
        names = (_NAME.fullmatch(path.name) for path in self.folder.glob("step-*"))
        attempt = 1 + max((int(name[2] or 1) for name in names if name and int(name[1]) == step), default=0)
        return self.folder / _name(step, attempt)

    def _publish(self, folder: Path, step: int) -> Checkpoint:
        path = self._free_place(step)
        os.rename(folder, path)
        sync(self.folder)
        return _read(path)

    def _retire(self, newest: Checkpoint) -> None:
        """Delete what ``newest`` makes superfluous: the same step saved before, and by ``keep_last``."""
        checkpoints = self._scan()[0]
        superseded = [each for each in checkpoints if each.step == newest.step and each.attempt < newest.attempt]
        rest = [each for each in checkpoints if each not in superseded]
        keep = rest[-self.keep_last :] if self.keep_last else rest
        rated = [each for each in rest if math.isfinite(self._score(each))]
        keep = [*keep, newest, *sorted(rated, key=self._score)[:1]]
        for checkpoint in checkpoints:
            if checkpoint not in keep:
                self._delete(checkpoint.path)

    def _score(self, checkpoint: Checkpoint) -> float:
        return float(checkpoint.metadata.get(self.keep_best, math.nan)) if self.keep_best else math.nan

    def _delete(self, path: Path) -> None:
        doomed = path.with_name(f"{_DELETING}{path.name}")
        os.rename(path, doomed)
        sync(self.folder)
        shutil.rmtree(doomed)


def _name(step: int, attempt: int) -> str:
    return f"step-{step:010d}" + (f".{attempt}" if attempt > 1 else "")


def _seal(folder: Path, names: Iterable[str]) -> dict[str, File]:
    """Flush the files to the disk and return what the manifest says of them."""
    return {name: _measure(folder / name, flush=True) for name in names}


def _measure(path: Path, *, flush: bool = False) -> File:
    size, crc = 0, 0
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            size += count
            crc = zlib.crc32(buffer[:count], crc)
        if flush:
            os.fsync(file.fileno())
    return File(size, crc)


def _damage(path: Path, expected: File) -> str | None:
    try:
        found = _measure(path)
    except OSError as error:
        return f"{path.name} cannot be read: {error}"
    if found.size != expected.size:
        return f"{path.name} has {found.size} bytes, of {expected.size}"
    if found.crc32 != expected.crc32:
        return f"{path.name} was altered: its CRC-32 is {found.crc32:08x}, and was {expected.crc32:08x} when written"
    return None


def _write_manifest(folder: Path, step: int, metadata: dict[str, Any], written: list[dict[str, File]]) -> None:
    files: dict[str, dict[str, int]] = {}
    for of_rank in written:
        for name, file in of_rank.items():
            assert name not in files, f"two ranks wrote {name}"
            files[name] = {"size": file.size, "crc32": file.crc32}
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert there == files.keys(), f"written, but not by the ranks' account, or the reverse: {there ^ files.keys()}"
    # Through JSON once, so that a reader computes the CRC of the same values: tuples become lists, keys strings.
    body = json.loads(json.dumps({"format": FORMAT, "step": step, "metadata": metadata, "files": files}))
    with (folder / MANIFEST).open("w") as manifest:
        json.dump({**body, "crc32": _crc_of(body)}, manifest, indent=1, sort_keys=True)
        manifest.flush()
        os.fsync(manifest.fileno())
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            sync(path)


def _read(path: Path) -> Checkpoint:
    """Return the checkpoint in ``path``; ``ValueError`` says why it is none."""
    try:
        body = json.loads((path / MANIFEST).read_bytes())
        crc = body.pop("crc32")
    except FileNotFoundError:
        raise ValueError(f"{MANIFEST} is missing") from None
    except OSError as error:
        raise ValueError(f"{MANIFEST} cannot be read: {error}") from error
    except (ValueError, KeyError, AttributeError, TypeError):
        raise ValueError(f"{MANIFEST} is torn") from None
    if _crc_of(body) != crc:
        raise ValueError(f"{MANIFEST} was altered")
    if body["format"] != FORMAT:
        raise ValueError(f"its format is {body['format']}, and this version reads {FORMAT}")
    files = {name: File(**entry) for name, entry in body["files"].items()}
    for name, file in files.items():
        try:
            size = (path / name).stat().st_size
        except FileNotFoundError:
            raise ValueError(f"{name} is missing") from None
        except OSError as error:
            raise ValueError(f"{name} cannot be read: {error}") from error
        if size != file.size:
            raise ValueError(f"{name} has {size} bytes, of {file.size}")
    match = _NAME.fullmatch(path.name)
    attempt = int(match[2] or 1) if match else 1
    return Checkpoint(path, body["step"], attempt, body["metadata"], files)


def _crc_of(body: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(body, sort_keys=True).encode())


def _lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise RankError(
            f"another process is saving to {path.parent}: give each run a folder of its own, or wait until it is done"
        ) from None
    return descriptor


def _unlock(descriptor: int) -> None:
    # Not left to close: forked workers of a data loader hold copies of the descriptor.
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _make(folder: Path) -> None:
    """Make a folder and those above it, each flushed into the one that holds it."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file, or a folder: until then a name in it may be lost with the power, though the file is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
