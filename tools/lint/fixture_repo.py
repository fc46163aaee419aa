"""Small repos with planted faults, for the tests of the checks."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

from tools.lint import tree
from tools.lint.distributions import Distributions
from tools.lint.repo import Repo

LOADS = """\
load("@rules_python//python:defs.bzl", "py_binary", "py_library")
load("//testing:defs.bzl", "trainer_test")
"""


def write_files(root: Path, files: Mapping[str, str]) -> Path:
    """Writes files, with their common indentation removed, and the empty `__init__.py` of each folder of Python."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
        if path.suffix == ".py":
            for folder in [parent for parent in path.parents if root in parent.parents]:
                if str(folder.relative_to(root) / "__init__.py") not in files:
                    (folder / "__init__.py").touch()
    return root


def configuration() -> str:
    """The repo's pyproject.toml."""
    folder = tree.runfiles()
    if folder is None:
        return (tree.working_tree() / "pyproject.toml").read_text(encoding="utf-8")
    (path,) = folder.glob(f"*source_tree/tree/pyproject.toml{tree.SUFFIX}")
    return path.read_text(encoding="utf-8")


def read_repo(root: Path, files: Mapping[str, str]) -> Repo:
    """The repo of `write_files`."""
    return Repo.read(write_files(root, files))


def install(folder: Path, records: Mapping[str, list[str]]) -> Distributions:
    """Wheels with only their metadata: `{"PyYAML-6.0": ["yaml/__init__.py"]}`."""
    for wheel, files in records.items():
        info = folder / f"{wheel}.dist-info"
        info.mkdir(parents=True)
        (info / "RECORD").write_text("".join(f"{file},sha256=x,1\n" for file in files), encoding="utf-8")
    return Distributions([folder])


def usual_wheels(folder: Path) -> Distributions:
    """numpy, torch, pytest and PyYAML."""
    return install(
        folder,
        {
            "PyYAML-6.0.3": ["yaml/__init__.py", "_yaml/__init__.py", "PyYAML-6.0.3.dist-info/RECORD"],
            "numpy-2.4.6": ["numpy/__init__.py", "numpy/linalg/__init__.py", "../../bin/f2py"],
            "pytest-9.2.0": ["pytest/__init__.py", "_pytest/__init__.py", "py.py"],
            "torch-2.13.0": ["torch/__init__.py", "torch/nn/__init__.py", "functorch/__init__.py"],
        },
    )
