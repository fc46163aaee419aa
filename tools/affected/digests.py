"""Contents of source files as digests: of the workspace from git, of external repositories from disk."""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Iterable
from pathlib import Path

from tools.affected.git_trees import LINK, Changes, Repo

# The digest of what is not there.
MISSING = "missing"
# The digest of a folder of an external repository.
EXTERNAL_FOLDER = "folder"
_EXTERNAL = "external/"
# Where what actions make stands.
GENERATED = "bazel-out/"


class TreeDigests:
    """Digests of the files of a git tree, symbolic links followed.

    The digest of a folder is that of all files below it: Bazel's own cache does not look into folders, but a test does.
    """

    def __init__(self, repo: Repo, tree: str) -> None:
        self._files = repo.files(tree)
        self._links = {path: entry for path, entry in self._files.items() if entry.mode == LINK}
        self._targets = {path: repo.content(tree, path) or "" for path in self._links}
        self._folders: dict[str, list[str]] | None = None
        self._walked: set[str] = set()

    def __call__(self, path: str) -> str:
        """The digest of a file or folder; MISSING where the tree has none such."""
        for _ in range(40):  # as many links as Linux follows
            entry = self._files.get(path)
            if entry is not None and entry.mode != LINK:
                return f"{entry.mode} {entry.blob}"
            link = self._link_on_the_way(path)
            if link is None:
                return self._folder(path)
            path = posixpath.normpath(
                posixpath.join(posixpath.dirname(link), self._targets[link], path[len(link) + 1 :])
            )
            if path.startswith(("../", "/")):
                return f"outside {path}"
        return "endless links"

    def _link_on_the_way(self, path: str) -> str | None:
        if not self._links:
            return None
        parts = path.split("/")
        return next((p for p in ("/".join(parts[:n]) for n in range(1, len(parts) + 1)) if p in self._links), None)

    def _folder(self, path: str) -> str:
        if self._folders is None:
            self._folders = {}
            for file in self._files:
                folder = posixpath.dirname(file)
                while folder:
                    self._folders.setdefault(folder, []).append(file)
                    folder = posixpath.dirname(folder)
        below = self._folders.get(path)
        if below is None:
            return MISSING
        if path in self._walked:
            return "endless links"
        self._walked.add(path)
        lines = [f"{file[len(path) :]} {self(file)}" for file in below]
        self._walked.discard(path)
        return "folder " + hashlib.blake2b("\n".join(sorted(lines)).encode(errors="surrogateescape")).hexdigest()


def external_digests(paths: Iterable[str], output_base: Path) -> dict[str, str]:
    """Digests of files of external repositories.

    A folder there has none of its own: the repository rule that made it is trusted to stamp it
    (docs/python_packages.md), as Bazel does.
    """
    found = {}
    for path in paths:
        if path.startswith(_EXTERNAL):
            file = output_base / path
            try:
                content = hashlib.blake2b(file.read_bytes(), digest_size=20).hexdigest()
                found[path] = f"{'x' if os.access(file, os.X_OK) else '-'} {content}"
            except IsADirectoryError:
                found[path] = EXTERNAL_FOLDER
            except OSError:
                found[path] = MISSING
    return found


def links_into(paths: Iterable[str], output_base: Path, workspace: Path) -> dict[str, str]:
    """Those files of external repositories that are links into the workspace: path to the file that they stand for."""
    found = {}
    root = os.path.realpath(workspace)
    for path in paths:
        real = os.path.realpath(output_base / path)
        if real.startswith(f"{root}/"):
            found[path] = os.path.relpath(real, root)
    return found


def product_digest(file: Path) -> str | None:
    """Digest of a file or folder that an action made; None where there is none."""
    if file.is_dir():
        below = sorted(path for path in file.rglob("*") if path.is_file())
        parts = [f"{path.relative_to(file)} {product_digest(path)}" for path in below]
        return "folder " + hashlib.blake2b("\n".join(parts).encode(errors="surrogateescape")).hexdigest()
    try:
        return hashlib.blake2b(file.read_bytes(), digest_size=20).hexdigest()
    except OSError:
        return None


def is_workspace_file(path: str) -> bool:
    """Whether a source of an action graph belongs to the main repository."""
    return not path.startswith((_EXTERNAL, GENERATED))


def touched(paths: Iterable[str], changed: Changes) -> set[str]:
    """Which of the files and folders of the workspace may differ, given the files that do.

    Links among the unchanged files are not followed: the caller compares digests when a tree has any.
    """
    folders = set()
    for path in changed:
        folder = posixpath.dirname(path)
        while folder and folder not in folders:
            folders.add(folder)
            folder = posixpath.dirname(folder)
    return {path for path in paths if path in changed or path in folders}
