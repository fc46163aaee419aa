"""Reads the targets of BUILD.bazel files.

Our BUILD files hold `load`, assignments of lists, and calls with literal arguments, which Python's own parser reads.
Anything else that could hide a source or a dependency is a fault that `read` names.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from tools.lint.finding import Finding

PYTHON_RULES = frozenset({"py_library", "py_binary", "py_test", "trainer_test"})

_VALUE = "the value of a constant"

_KEEP = re.compile(r"#\s*keep:\s*(\S.*)$")
_IMPORT = re.compile(r"#\s*import:\s*([\w.]+(?:\s*,\s*[\w.]+)*)\s*$")


@dataclass(frozen=True)
class Entry:
    """One string of a list attribute.

    Attributes:
      value: the string as written.
      line: its line in the BUILD file.
      keep: the reason after `# keep:` on that line, or on a line of its own right above the target; "" without one.
      imports: the modules after `# import:` on that line, for a wheel whose metadata is not at hand.
    """

    value: str
    line: int
    keep: str = ""
    imports: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """One rule or macro call of a BUILD file.

    Attributes:
      label: `//package:name`.
      kind: the function called, such as `py_library`.
      build_file: path of the BUILD file, relative to the repo.
      line: first line of the call.
      srcs: the entries of `srcs`, over all branches of a `select`.
      deps: the same for `deps`.
      data: the same for `data`.
      strings: every string that the call contains.
      testonly: the attribute of that name.
      actual: of an alias, the label it stands for.
      end_line: last line of the call.
    """

    label: str
    kind: str
    build_file: str
    line: int
    end_line: int
    srcs: tuple[Entry, ...] = ()
    deps: tuple[Entry, ...] = ()
    data: tuple[Entry, ...] = ()
    strings: frozenset[str] = frozenset()
    testonly: bool = False
    actual: str = ""

    @property
    def package(self) -> str:
        """The package, such as `trainers/data`; "" for the root."""
        return self.label[2:].partition(":")[0]

    @property
    def name(self) -> str:
        """The part of the label after the colon."""
        return self.label.partition(":")[2]

    @property
    def is_test(self) -> bool:
        """Whether the sources are test code: they may import `testing`."""
        return self.testonly or self.kind in ("py_test", "trainer_test")

    def source_paths(self) -> Iterator[tuple[str, Entry]]:
        """The paths of the Python files in `srcs`, relative to the repo, each with its entry."""
        for entry in self.srcs:
            if entry.value.endswith((".py", ".pyi")):
                package, _, name = normalize(entry.value, self.package)[2:].partition(":")
                yield (f"{package}/{name}" if package else name), entry


@dataclass(frozen=True)
class BuildFile:
    """The targets of one BUILD file and what could not be read."""

    path: str
    targets: tuple[Target, ...]
    faults: tuple[Finding, ...]


def normalize(label: str, package: str) -> str:
    """The full form of a label that stands in `package`: `:x`, `x` and `//p` become `//package:x` and `//p:p`.

    External labels keep their repository: `@pypi//numpy` becomes `@pypi//numpy:numpy`.
    """
    repository, slashes, rest = label.partition("//")
    if not slashes:
        return f"//{package}:{label.removeprefix(':')}"
    if repository in ("@", "@@"):
        repository = ""
    folder, colon, name = rest.partition(":")
    return f"{repository}//{folder}:{name if colon else folder.rpartition('/')[2]}"


def read(path: str, text: str) -> BuildFile:
    """Parses the BUILD file at `path` (relative to the repo) with the content `text`."""
    reader = _Reader(path, text)
    try:
        module = ast.parse(text, filename=path)
    except SyntaxError as error:
        fault = Finding(
            path,
            error.lineno or 0,
            f"lint cannot read this BUILD file: {error.msg}",
            "write it as load(), lists and calls",
        )
        return BuildFile(path, (), (fault,))
    for statement in module.body:
        reader.statement(statement)
    return BuildFile(path, tuple(reader.targets), tuple(reader.faults))


class _Reader:
    def __init__(self, path: str, text: str) -> None:
        self.path = path
        folder = str(PurePosixPath(path).parent)
        self.package = "" if folder == "." else folder
        self.lines = text.splitlines()
        self.constants: dict[str, tuple[Entry, ...]] = {}
        self.loaded: set[str] = set()
        self.targets: list[Target] = []
        self.faults: list[Finding] = []

    def statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            self.call(node.value)
        elif isinstance(node, ast.Assign) and all(isinstance(target, ast.Name) for target in node.targets):
            entries = tuple(self.entries(node.value, _VALUE))
            for target in node.targets:
                assert isinstance(target, ast.Name)
                self.constants[target.id] = entries
        elif any(isinstance(name, ast.Name) and name.id in PYTHON_RULES for name in ast.walk(node)):
            self.unreadable(node, "a Python target that is made in a loop or by an expression")

    def call(self, node: ast.Call) -> None:
        kind = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
        if kind == "load":
            self.loaded.update(_string(argument) for argument in node.args[1:])
            self.loaded.update(str(keyword.arg) for keyword in node.keywords)
            return
        attributes = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
        name = _string(attributes.get("name"))
        strings = frozenset(
            child.value for child in ast.walk(node) if isinstance(child, ast.Constant) and isinstance(child.value, str)
        )
        python = kind in PYTHON_RULES
        if python and not name:
            self.unreadable(node, f"{kind} without a literal name")
            return
        lists: dict[str, tuple[Entry, ...]] = {}
        for attribute in ("srcs", "deps", "data"):
            value = attributes.get(attribute)
            # Only rules of Python matter: other macros may take what they like.
            lists[attribute] = tuple(self.entries(value, attribute)) if python and value is not None else ()
        # `# keep: why` right above a target stands for each of its entries.
        whole = self.keep(node.lineno - 1) if self.lines[node.lineno - 2].startswith("#") else ""
        if whole:
            lists = {key: tuple(replace(entry, keep=whole) for entry in entries) for key, entries in lists.items()}
        testonly = attributes.get("testonly")
        self.targets.append(
            Target(
                label=f"//{self.package}:{name}",
                kind=kind,
                build_file=self.path,
                line=node.lineno,
                end_line=node.end_lineno or node.lineno,
                **lists,
                strings=strings,
                testonly=isinstance(testonly, ast.Constant) and bool(testonly.value),
                actual=_string(attributes.get("actual")),
            )
        )

    def entries(self, node: ast.expr, attribute: str) -> Iterator[Entry]:
        """Every string that the expression can hold: of each operand of `+` and of each branch of a `select`."""
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str):
                yield self.entry(node, node.value)
        elif isinstance(node, (ast.List, ast.Tuple)):
            for element in node.elts:
                yield from self.entries(element, attribute)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            yield from self.entries(node.left, attribute)
            yield from self.entries(node.right, attribute)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "select":
            for branches in node.args:
                if isinstance(branches, ast.Dict):
                    for branch in branches.values:
                        yield from self.entries(branch, attribute)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "glob":
            patterns = [child.value for child in ast.walk(node) if isinstance(child, ast.Constant)]
            python = any(isinstance(pattern, str) and pattern.endswith((".py", "*")) for pattern in patterns)
            if attribute == "srcs" or python:
                self.fault(node, f"{attribute} globs Python sources", "name each file: `srcs = [...]` stays exact")
        elif isinstance(node, ast.Name) and node.id in self.constants:
            yield from self.constants[node.id]
        elif isinstance(node, ast.Name) and node.id in self.loaded:
            if not self.keep(node.lineno):
                mend = f"write the labels out, or give the reason: `{attribute} = {node.id},  # keep: why`"
                self.fault(node, f"{attribute} holds {node.id}, whose labels lint cannot see", mend)
        elif attribute != _VALUE:
            self.unreadable(node, f"{attribute} is `{ast.unparse(node)}`")

    def entry(self, node: ast.Constant, value: str) -> Entry:
        match = _IMPORT.search(self.lines[node.lineno - 1])
        return Entry(
            value=value,
            line=node.lineno,
            keep=self.keep(node.lineno),
            imports=tuple(re.split(r"\s*,\s*", match[1])) if match else (),
        )

    def keep(self, line: int) -> str:
        match = _KEEP.search(self.lines[line - 1])
        return match[1].strip() if match else ""

    def unreadable(self, node: ast.AST, what: str) -> None:
        self.fault(node, f"lint cannot read {what}", "write each target out with literal lists, `+` and select()")

    def fault(self, node: ast.AST, message: str, mend: str) -> None:
        self.faults.append(Finding(self.path, getattr(node, "lineno", 0), message, mend))


def _string(node: ast.expr | None) -> str:
    """The value of a string literal; "" for anything else."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
