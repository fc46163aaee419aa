"""The decision of an earlier call, taken again while all that it came from is as it was.

Every command waits for this, so it is plain: `pathlib` alone takes 12 ms to import, reading pip's configuration and
choosing anew 70 ms.
"""

from __future__ import annotations

import binascii
import marshal
import os
import pwd
from collections.abc import Iterable

# What the environment can say about it: the variables that tools/bazel reads, and those of pip and uv.
_VARIABLES = ("HOME", "PATH", "SSL_CERT_FILE")
_PREFIXES = ("BAZEL", "PIP_", "UV_", "XDG_")

Start = tuple[tuple[str, ...], dict[str, str]]
Facts = dict[str, object]


def home() -> str:
    """The user's home folder, also where HOME is not set."""
    return os.environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir


def user() -> str:
    """The user's name, also where USER is not set."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def cache() -> str:
    """The cache folder of this project: `$XDG_CACHE_HOME/trainyard`, by default `~/.cache/trainyard`."""
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.join(home(), ".cache"), "trainyard")


def facts(paths: Iterable[str]) -> Facts:
    """What tells one state of files and folders from another: {path: stamp}; for a folder the names in it."""
    return {path: _stamp(path) for path in paths}


def recall(root: str) -> Start | None:
    """The kept decision of the repo at `root`: command and variables to set; None if it has to be taken anew."""
    try:
        with open(_place(root), "rb") as file:
            key, known, (command, environ) = marshal.load(file)
    except (OSError, EOFError, ValueError, TypeError):
        return None
    if key != _key(root) or any(_stamp(path) != stamp for path, stamp in known.items()):
        return None
    return command, environ


def keep(root: str, known: Facts, start: Start) -> None:
    """Keeps a decision that came from `known`; where the cache folder cannot be written, nothing is kept."""
    _write(_place(root), marshal.dumps((_key(root), known, start), 2))


def _stamp(path: str) -> object:
    try:
        found = os.stat(path)
        if os.path.isdir(path):
            return sorted(os.listdir(path))
    except OSError:
        return None
    return [found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode]


def _key(root: str) -> list[str]:
    chosen = (name for name in os.environ if name in _VARIABLES or name.startswith(_PREFIXES))
    return [root, str(os.getuid()), *(f"{name}={os.environ[name]}" for name in sorted(chosen))]


def _place(root: str) -> str:
    # (one file for each environment; two that share a checksum only take turns)
    return os.path.join(cache(), "kept", f"start-{binascii.crc32(repr(_key(root)).encode(errors='replace')):08x}")


def _write(path: str, content: bytes) -> None:
    unfinished = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        # The environment may name a registry with a password in it.
        with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
        os.replace(unfinished, path)
    except OSError:
        pass
