"""The blobs that casd keeps on disk, each under the digest of its content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from tools.remote.places import Places


def files(places: Places) -> Iterator[Path]:
    """The files of all blobs."""
    for folder in sorted(_objects(places).glob("[0-9a-f][0-9a-f]")):
        yield from sorted(folder.iterdir())


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
