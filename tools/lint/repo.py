"""The repo as the checks see it: its files, its targets, and which target provides which file."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

from tools.lint import build_file, tree
from tools.lint.build_file import BuildFile, Target
from tools.lint.finding import Finding
from tools.lint.imports import Import, imports_of

_PYTHON_LABEL = re.compile(r'"(?:@{0,2})//([^":]*):([^"]+\.py)"')


@dataclass
class Repo:
    """A folder with source files.

    Attributes:
      root: the folder.
      files: the source files, relative to it; those of nested Bazel modules are left out.
      nested: the source files of nested Bazel modules (folders with their own MODULE.bazel).
    """

    root: Path
    files: list[PurePosixPath] = field(default_factory=list)
    nested: list[PurePosixPath] = field(default_factory=list)

    @classmethod
    def read(cls, root: Path) -> Repo:
        """Lists the source files below `root`.

        Raises:
          ValueError: there is none.
        """
        files = tree.source_files(root)
        if not files:
            raise ValueError(f"no source files below {root}")
        modules = {file.parent for file in files if file.name in ("MODULE.bazel", "REPO.bazel")} - {PurePosixPath()}
        nested = [file for file in files if any(module in file.parents for module in modules)]
        return cls(root, sorted(set(files) - set(nested)), nested)

    def text(self, path: PurePosixPath | str) -> str:
        """The content of a file."""
        return (self.root / path).read_text(encoding="utf-8")

    @cached_property
    def python_files(self) -> list[PurePosixPath]:
        """Every Python file."""
        return [file for file in self.files if file.suffix in (".py", ".pyi")]

    @cached_property
    def build_files(self) -> list[BuildFile]:
        """Every BUILD file, parsed."""
        return [
            build_file.read(str(file), self.text(file)) for file in self.files if file.name in ("BUILD", "BUILD.bazel")
        ]

    @cached_property
    def targets(self) -> dict[str, Target]:
        """Every named target by its label."""
        return {target.label: target for build in self.build_files for target in build.targets if target.name}

    @cached_property
    def python_targets(self) -> list[Target]:
        """The targets with Python sources."""
        return [target for target in self.targets.values() if target.kind in build_file.PYTHON_RULES]

    @cached_property
    def owners(self) -> dict[str, list[Target]]:
        """The targets that have a file in `srcs`, by path; libraries first."""
        owners: dict[str, list[Target]] = {}
        for target in self.python_targets:
            for path, _ in target.source_paths():
                owners.setdefault(path, []).append(target)
        for targets in owners.values():
            targets.sort(key=lambda target: (target.kind != "py_library", target.label))
        return owners

    @cached_property
    def declared(self) -> frozenset[str]:
        """The paths of the Python files that any BUILD or .bzl file names."""
        found: set[str] = set()
        for build in self.build_files:
            for target in build.targets:
                for value in target.strings:
                    if value.endswith(".py") and "//" not in value:
                        found.add(str(PurePosixPath(target.package) / value.removeprefix(":")))
        for file in self.files:
            if file.suffix in (".bazel", ".bzl") or file.name == "BUILD":
                for package, name in _PYTHON_LABEL.findall(self.text(file)):
                    found.add(str(PurePosixPath(package) / name))
        return frozenset(found)

    @cached_property
    def test_files(self) -> frozenset[str]:
        """The paths of test code: sources of tests and of `testonly` targets, and pytest's conftest.py."""
        found = {path for target in self.python_targets if target.is_test for path, _ in target.source_paths()}
        found.update(
            str(path) for path in self.python_files if path.name == "conftest.py" or path.stem.endswith("_test")
        )
        return frozenset(found)

    @cached_property
    def imports(self) -> dict[str, list[Import]]:
        """The imports of every Python file that parses, by path."""
        found = {}
        for path in self.python_files:
            try:
                found[str(path)] = imports_of(path, self.text(path))
            except SyntaxError:
                continue  # ruff reports it, with its place
        return found

    def package_of(self, path: str) -> str | None:
        """The package that a file belongs to: the nearest folder above it with a BUILD file; None without one."""
        folders = {str(PurePosixPath(build.path).parent) for build in self.build_files}
        for parent in PurePosixPath(path).parents:
            if str(parent) in folders:
                return "" if str(parent) == "." else str(parent)
        return None

    def is_first_party(self, module: str) -> bool:
        """Whether the module's top level is a folder or file of this repo."""
        return module.partition(".")[0] in self._top_level

    @cached_property
    def _paths(self) -> frozenset[str]:
        return frozenset(map(str, self.python_files))

    @cached_property
    def _top_level(self) -> frozenset[str]:
        return frozenset(path.parts[0].removesuffix(".py") for path in self.python_files)

    def module_file(self, imported: Import) -> str | None:
        """The path of the file that a first-party import reads; None when there is no such file.

        A package (`__init__.py`) is such a file, too.
        """
        stem = imported.module.replace(".", "/")
        stems = ([f"{stem}/{imported.name}"] if imported.name else []) + [stem]
        candidates = [candidate for stem in stems for candidate in (f"{stem}.py", f"{stem}/__init__.py")]
        return next((candidate for candidate in candidates if candidate in self._paths), None)

    def build_faults(self) -> list[Finding]:
        """What the BUILD files hold that cannot be read."""
        return [fault for build in self.build_files for fault in build.faults]
