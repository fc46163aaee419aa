"""Maps what a file imports to the distribution (wheel) that provides it: `yaml` to `pyyaml`.

The map is read from the `RECORD` of every installed wheel: under Bazel of the wheels in the runfiles, elsewhere of
those on `sys.path`.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from tools.lint import tree

_SUFFIXES = (".py", ".pyi", ".so", ".pyd")


def normalize(name: str) -> str:
    """A distribution's name as its label spells it: lower case, with `_` for `-` and `.`."""
    return re.sub(r"[-_.]+", "_", name).lower()


def site_folders() -> list[Path]:
    """The folders that wheels are installed in."""
    found = {Path(entry) for entry in sys.path if entry and Path(entry).name in ("site-packages", "dist-packages")}
    folder = tree.runfiles()
    if folder is not None:
        found.update(folder.glob("*/site-packages"))
    return sorted(found)


class Distributions:
    """Which distribution provides a module."""

    def __init__(self, folders: Iterable[Path]) -> None:
        """Reads the wheels installed in `folders`."""
        self._modules: dict[str, dict[str, set[str]]] = {}  # top-level module -> distribution -> its modules
        self.names: set[str] = set()
        for folder in folders:
            for info in sorted(folder.glob("*.dist-info")):
                record = info / "RECORD"
                if record.is_file():
                    self._add(normalize(info.name.removesuffix(".dist-info").rpartition("-")[0]), record)

    def _add(self, distribution: str, record: Path) -> None:
        self.names.add(distribution)
        with record.open(encoding="utf-8", newline="") as file:
            for row in csv.reader(file):
                path = PurePosixPath(row[0]) if row else PurePosixPath()
                if path.suffix not in _SUFFIXES or path.is_absolute() or ".." in path.parts:
                    continue
                module = [*path.parts[:-1], path.name.partition(".")[0]]
                if module[-1] == "__init__":
                    module.pop()
                if module and all(part.isidentifier() for part in module):
                    self._modules.setdefault(module[0], {}).setdefault(distribution, set()).add(".".join(module))

    def providers(self, module: str, name: str = "") -> set[str]:
        """The distributions that provide `module` (or its attribute or submodule `name`); empty when none does.

        Several distributions share a top-level name in a namespace package: the one that has the module counts.
        """
        candidates = self._modules.get(module.partition(".")[0], {})
        if len(candidates) < 2:
            return set(candidates)
        for wanted in ([f"{module}.{name}"] if name else []) + _prefixes(module):
            exact = {distribution for distribution, modules in candidates.items() if wanted in modules}
            if exact:
                return exact
        return set(candidates)


def _prefixes(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
