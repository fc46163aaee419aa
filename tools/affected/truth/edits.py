"""Edits of the synthetic workspace, as a developer would make them."""

from __future__ import annotations

import re
from pathlib import Path

from tools.affected.truth import workspace

_TEST = re.compile(r'^(\w*_test)\(\s*name = "(\w+)"', re.MULTILINE)
_NEVER = ("manual_test", "incompatible_test")


class InapplicableError(Exception):
    """The edit does not fit the state of the workspace, as may be after another edit."""


class Workspace:
    """A workspace of `workspace.write` that is being edited.

    Attributes:
      root: its folder.
      origin: id of its first commit.
      base: id of the commit that the edits are compared with.
      chosen: labels of the tests that are compared, once these have run.
      read_by_chosen: paths of the files that they depend on.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.origin = workspace.git(root, "rev-parse", "HEAD")
        self.base = self.origin
        self.chosen: tuple[str, ...] = ()
        self.read_by_chosen: tuple[str, ...] = ()

    def reset(self) -> None:
        """Undoes all edits."""
        workspace.git(self.root, "reset", "--quiet", "--hard", self.origin)
        workspace.git(self.root, "clean", "-ffdxq")
        self.base = self.origin

    def commit(self) -> str:
        """Commits all edits so far; returns the commit's id."""
        return workspace.commit(self.root, "A change")

    def stage(self) -> None:
        """Adds all edits so far to git's index."""
        workspace.git(self.root, "add", "--all")

    def read(self, path: str) -> str:
        """The text of a file.

        Raises:
          InapplicableError: there is no such file.
        """
        file = self.root / path
        if not file.exists() or file.is_dir():
            raise InapplicableError(f"{path} is not there")
        return file.read_text(encoding="utf-8")

    def write(self, path: str, text: str) -> None:
        """Writes a file; scripts become executable. Its mode stays if it is there."""
        file = self.root / path
        if file.is_symlink() or file.is_dir():
            raise InapplicableError(f"{path} is not a file")
        new = not file.exists()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        if new and file.suffix == ".sh":
            file.chmod(0o755)

    def create(self, path: str, text: str) -> None:
        """Writes a file that is not there yet.

        Raises:
          InapplicableError: it is.
        """
        if (self.root / path).exists():
            raise InapplicableError(f"{path} is there")
        self.write(path, text)

    def append(self, path: str, text: str) -> None:
        """Adds to the end of a file."""
        self.write(path, self.read(path) + text)

    def replace(self, path: str, old: str, new: str) -> None:
        """Replaces the only occurrence of `old`.

        Raises:
          InapplicableError: there is none, or there are several.
        """
        text = self.read(path)
        if text.count(old) != 1:
            raise InapplicableError(f"{path} has {old!r} {text.count(old)} times")
        self.write(path, text.replace(old, new))

    def remove(self, path: str) -> None:
        """Deletes a file or a link."""
        file = self.root / path
        if not file.is_symlink() and not file.is_file():
            raise InapplicableError(f"{path} is not there")
        file.unlink()

    def move(self, old: str, new: str) -> None:
        """Renames a file or a folder."""
        if not (self.root / old).exists() or (self.root / new).exists():
            raise InapplicableError(f"cannot move {old} to {new}")
        (self.root / new).parent.mkdir(parents=True, exist_ok=True)
        (self.root / old).rename(self.root / new)

    def link(self, path: str, target: str) -> None:
        """Makes a symbolic link, instead of what may be there."""
        (self.root / path).unlink(missing_ok=True)
        (self.root / path).symlink_to(target)

    def files(self, suffix: str) -> list[str]:
        """Paths of the tracked files with a suffix."""
        return [path for path in workspace.git(self.root, "ls-files").splitlines() if path.endswith(suffix)]

    def label(self, path: str) -> str:
        """The label of a file: its package is the nearest folder with a BUILD file."""
        folder = next(parent for parent in (self.root / path).parents if (parent / "BUILD.bazel").exists())
        package = folder.relative_to(self.root).as_posix()
        return f"//{'' if package == '.' else package}:{(self.root / path).relative_to(folder)}"

    def tests(self, *rules: str) -> list[str]:
        """Labels of the tests that Bazel runs in some configuration; those of some rules, if any are named."""
        return [
            f"//{package}:{name}"
            for package, text in self._packages()
            for rule, name in _TEST.findall(text)
            if name not in _NEVER and (not rules or rule in rules)
        ]

    def get(self, label: str, attribute: str) -> str | None:
        """The source text of a target's attribute; None if it is not given."""
        match = self._attribute(self._target(label), attribute)
        return match.group("value") if match else None

    def set(self, label: str, attribute: str, value: str | None) -> None:
        """Gives a target's attribute another value, as source text; None takes it away."""
        block = self._target(label)
        match = self._attribute(block, attribute)
        line = f"    {attribute} = {value},\n" if value is not None else ""
        if match:
            edited = block[: match.start()] + line + block[match.end() :]
        else:
            head, newline, rest = block.partition(",\n")
            edited = head + newline + line + rest if newline else block.replace("\n)", ",\n" + line + ")")
        self.replace(self._build_file(label), block, edited)

    def delete(self, label: str) -> None:
        """Deletes a target from its BUILD file."""
        self.replace(self._build_file(label), self._target(label), "")

    def add(self, package: str, text: str) -> None:
        """Adds targets to a package."""
        self.append(f"{package}/BUILD.bazel", "\n" + text)

    def _packages(self) -> list[tuple[str, str]]:
        files = sorted(self.root.rglob("BUILD.bazel"))
        return [
            (file.parent.relative_to(self.root).as_posix().removeprefix("."), file.read_text(encoding="utf-8"))
            for file in files
            if "third_party" not in file.parts
        ]

    @staticmethod
    def _build_file(label: str) -> str:
        package = label.removeprefix("//").partition(":")[0]
        return f"{package}/BUILD.bazel" if package else "BUILD.bazel"

    def _target(self, label: str) -> str:
        """The source text of a target: from its rule's name to the parenthesis in the first column."""
        name = label.partition(":")[2]
        text = self.read(self._build_file(label))
        for block in re.findall(r"^\w+\(\n.*?^\)\n", text, re.MULTILINE | re.DOTALL):
            if f'\n    name = "{name}",\n' in block:
                return str(block)
        raise InapplicableError(f"{label} is not there")

    @staticmethod
    def _attribute(block: str, attribute: str) -> re.Match[str] | None:
        pattern = rf"^    {attribute} = (?P<value>.*?),\n(?=    \w+ = |\))"
        return re.search(pattern, block, re.MULTILINE | re.DOTALL)
