"""The user's cache folder: each entry is complete or treated as absent, and built by one process at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from tools.bazel import kept
from tools.bazel.progress import SetupError, say

_COMPLETE = ".complete"


def home() -> Path:
    """The user's home folder, also where HOME is not set."""
    return Path(kept.home())


def root() -> Path:
    """The cache folder of this project: `$XDG_CACHE_HOME/trainyard`, by default `~/.cache/trainyard`."""
    return Path(kept.cache())


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another set-up is at work on {path.with_suffix('')}; waiting for it ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        mend = "set XDG_CACHE_HOME to a folder that can be written"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SetupError(f"no space left below {folder} ({error}): free some, or {mend}") from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.ENOTDIR):
            raise SetupError(f"cannot write to {folder} ({error}): {mend}") from error
        raise


def ensure(name: str, build: Callable[[Path], None], *, needs_mb: int) -> Path:
    """Returns the entry `name`, built by `build(folder)` unless a complete one is there.

    The marker of completeness is written last, so what an interrupted build leaves is removed and built again.

    Args:
      name: the entry; must change whenever its content would.
      build: fills an empty folder. Programs may keep its path: it is the final one.
      needs_mb: free space that the build wants, in MB.

    Raises:
      SetupError: no space, or the cache folder cannot be written.
    """
    folder = root() / name
    if (folder / _COMPLETE).exists():
        return folder
    with _explained(root()):
        root().mkdir(parents=True, exist_ok=True)
        with _locked(root() / f"{name}.lock"):
            if (folder / _COMPLETE).exists():
                return folder
            free_mb = shutil.disk_usage(root()).free // 10**6
            if free_mb < needs_mb:
                raise SetupError(
                    f"{root()} has {free_mb} MB free, {name} needs {needs_mb} MB: "
                    "free some, or set XDG_CACHE_HOME to a folder on a larger disk"
                )
            if folder.exists():
                say(f"removing what an interrupted set-up left in {folder}")
                shutil.rmtree(folder)
            folder.mkdir()
            build(folder)
            (folder / _COMPLETE).touch()
    return folder
