"""The blobs that casd keeps on disk, each under the digest of its content."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from tools.remote.places import Places

# What casd leaves free of a disk, however much of it blobs may take.
RESERVED_BYTES = 2_000_000_000


def files(places: Places) -> Iterator[Path]:
    """The files of all blobs."""
    for folder in sorted(_objects(places).glob("[0-9a-f][0-9a-f]")):
        yield from sorted(folder.iterdir())


def disk_usage(places: Places) -> int | None:
    """Bytes of disk that casd's files take; None where they cannot be looked at."""
    total, folders = 0, [str(places.data / "casd")]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
        except FileNotFoundError:
            continue  # (casd removes what is old)
        except OSError:
            return None
    return total


def disk_free(places: Places) -> int | None:
    """Bytes that are free on their disk; None where there is none yet."""
    try:
        return shutil.disk_usage(places.data / "casd").free
    except OSError:
        return None


def is_damaged(blob: Path) -> bool:
    """Whether a blob is another than its name says; one that casd has removed is not.

    Neither casd nor a worker looks: a client refuses what it downloads, and a test would read it.
    """
    try:
        with blob.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() != blob.parent.name + blob.name
    except FileNotFoundError:
        return False


def remove_damaged(files: Iterable[Path]) -> Iterator[Path]:
    """Removes those that are damaged, and yields them. A client brings an input again, and has a result made again."""
    for blob in files:
        if is_damaged(blob):
            blob.unlink(missing_ok=True)
            yield blob


def _objects(places: Places) -> Path:
    return places.data / "casd" / "cas" / "objects"
