"""The source files of the repo, as a folder to check.

Under Bazel a test sees only what it declares: the repository `@source_tree` (source_tree.bzl) links every source file,
with the suffix `.src` so that a copied BUILD file does not make a package. `checkout` copies them back under
their own names. Elsewhere the folder is the working tree itself.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

SUFFIX = ".src"  # as in source_tree.bzl

_NAMES = ("BUILD", "WORKSPACE", ".bazelignore", "pyproject.toml")
_SUFFIXES = (".py", ".pyi", ".bzl", ".bazel")


def is_source(name: str) -> bool:
    """Whether a file of this name is checked; source_tree.bzl has the same list."""
    return name in _NAMES or name.endswith(_SUFFIXES)


def ignored_folders(root: Path) -> frozenset[str]:
    """The folders that `.bazelignore` names, relative to `root`."""
    path = root / ".bazelignore"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return frozenset(line.strip().rstrip("/") for line in lines if line.strip() and not line.startswith("#"))


def source_files(root: Path) -> list[PurePosixPath]:
    """Every file below `root` that is checked, relative to it and sorted.

    Left out, as Bazel leaves them out of `//...`: folders that `.bazelignore` names and `bazel-*` links; besides,
    folders whose name starts with a dot, `__pycache__`, and virtual environments.
    """
    ignored = ignored_folders(root)

    def walk(folder: Path, relative: PurePosixPath) -> Iterator[PurePosixPath]:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        if any(entry.name == "pyvenv.cfg" for entry in entries):
            return
        for entry in entries:
            below = relative / entry.name
            if entry.is_dir():
                hidden = entry.name.startswith(".") or entry.name == "__pycache__"
                linked = entry.name.startswith("bazel-") and entry.is_symlink()
                if not hidden and not linked and str(below) not in ignored:
                    yield from walk(folder / entry.name, below)
            elif is_source(entry.name):
                yield below

    return list(walk(root, PurePosixPath()))


def checkout(linked: Path, target: Path) -> Path:
    """Copies a `@source_tree` folder to `target`, each file under its own name, and returns `target`.

    Raises:
      ValueError: `linked` holds no source file.
    """
    files = sorted(path for path in linked.rglob("*" + SUFFIX) if path.is_file())
    if not files:
        raise ValueError(f"no source file below {linked}; is `@source_tree//:tree` in the test's data?")
    for path in files:
        destination = target / path.relative_to(linked).with_suffix("")
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, destination)
    return target


def runfiles() -> Path | None:
    """The folder that holds one folder per repository that this Bazel target declares; None outside Bazel."""
    for name in ("RUNFILES_DIR", "TEST_SRCDIR"):
        if os.environ.get(name):
            return Path(os.environ[name])
    # A py_binary under `bazel run` sets neither when it starts from its own folder.
    for parent in Path(os.path.abspath(__file__)).parents:
        if parent.name.endswith(".runfiles"):
            return parent
    return None


def working_tree() -> Path:
    """The root of the repo that the user stands in: Bazel's workspace under `bazel run`, else this file's repo."""
    workspace = os.environ.get("BUILD_WORKSPACE_DIRECTORY")
    return Path(workspace) if workspace else Path(os.path.abspath(__file__)).parents[2]


def sources_under_test(scratch: Path) -> Path:
    """The folder to check: a copy of `@source_tree` below `scratch` in a Bazel test, else the working tree.

    Raises:
      ValueError: a Bazel test that does not declare `@source_tree//:tree`.
    """
    folder = runfiles()
    if folder is None:
        return working_tree()
    # The repository's directory name is Bazel's to choose: `+source_tree` or `_main~_repo_rules~source_tree`.
    roots = sorted(path for path in folder.glob("*source_tree/tree") if path.is_dir())
    if len(roots) != 1:
        raise ValueError(f"{len(roots)} source trees in {folder}; add `@source_tree//:tree` to the test's data")
    return checkout(roots[0], scratch / "repo")
