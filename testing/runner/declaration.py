"""Reads trainer_test declarations from BUILD.bazel, for runs without Bazel.

The meaning is that of `expand` in //testing/private:expand.bzl; a test compares the two on a table of declarations.
"""

import ast
import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from testing.runner.target import HARDWARE, TIERS, Target

BUILD_FILE = "BUILD.bazel"
_READ = ("name", "srcs", "tier", "hardware", "devices", "env", "allowed_skips")


@dataclasses.dataclass(frozen=True)
class Declaration:
    """One `trainer_test`."""

    package: str  # "" for the repo root
    name: str
    srcs: tuple[str, ...]
    tier: str
    counts: Mapping[str, tuple[int, ...]]  # hardware -> device counts, each a target
    listed: frozenset[str]  # hardware whose counts were given as a list
    env: Mapping[str, str]
    allowed_skips: tuple[str, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """The test files, relative to the repo root."""
        return tuple(f"{self.package}/{src}" if self.package else src for src in self.srcs)

    def targets(self) -> list[Target]:
        """Every target of the declaration, in the order of the macro."""
        return [self._target(hardware, count) for hardware, counts in self.counts.items() for count in counts]

    def target_on(self, hardware: str, devices: int | None) -> Target | None:
        """The target that runs on a machine.

        Args:
            hardware: what it has.
            devices: how many of them; None for enough.

        Returns:
            The one with most devices; None if none fits.
        """
        fitting = [count for count in self.counts.get(hardware, ()) if devices is None or count <= devices]
        return self._target(hardware, max(fitting)) if fitting else None

    def _target(self, hardware: str, count: int) -> Target:
        name = self.name + ("" if hardware == "cpu" else f"_{hardware}")
        if hardware in self.listed:
            name += f"_x{count}"
        return Target(
            name=f"//{self.package}:{name}",
            files=self.files,
            tier=self.tier,
            hardware=hardware,
            devices=count,
            allowed_skips=self.allowed_skips,
        )


@functools.cache
def read_declarations(folder: Path, root: Path) -> tuple[Declaration, ...]:
    """Reads the declarations of one package.

    Args:
        folder: of the package.
        root: of the repo.

    Raises:
        ValueError: the BUILD file is no Python, or a declaration is not made of literals or holds bad values.
    """
    build = folder / BUILD_FILE
    if not build.exists():
        return ()
    package = folder.relative_to(root).as_posix()
    return parse_declarations(build.read_text(), "" if package == "." else package)


def parse_declarations(text: str, package: str) -> tuple[Declaration, ...]:
    """Reads the declarations in the text of a BUILD file; raises ValueError as read_declarations does."""
    place = f"{package}/{BUILD_FILE}".removeprefix("/")
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise ValueError(f"{place}:{error.lineno}: {error.msg}: run `bazel build //{package}:all`") from None
    at_top = {id(node.value) for node in tree.body if isinstance(node, ast.Expr)}
    declarations = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "trainer_test":
            if id(node) not in at_top:
                raise ValueError(f"{place}:{node.lineno}: a trainer_test in a loop or expression: write it out")
            declarations.append(declaration_of(package, **_literals(node, place)))
    return tuple(declarations)


def declaration_of(
    package: str,
    name: Any,
    srcs: Any,
    tier: Any,
    hardware: Any = None,
    devices: Any = 1,
    env: Mapping[str, str] | None = None,
    allowed_skips: list[str] | None = None,
) -> Declaration:
    """Makes a declaration from the arguments of trainer_test; raises ValueError for bad ones."""
    kinds = ["cpu"] if hardware is None else hardware
    where = f"trainer_test(name = {name!r}) in //{package}: "

    def require(holds: bool, message: str) -> None:
        if not holds:
            raise ValueError(f"{where}{message}; `bazel build //{package}:all` says how to mend it")

    require(isinstance(name, str) and name != "", "no name")
    require(isinstance(srcs, list) and bool(srcs), f"srcs = {srcs!r}: not a list of test files")
    for src in srcs:
        require(
            src.endswith("_test.py") and ":" not in src and src[0] != "/", f"srcs has {src!r}: not a *_test.py here"
        )
    require(tier in TIERS, f"tier = {tier!r}: not one of {', '.join(TIERS)}")
    require(isinstance(kinds, list) and bool(kinds), f"hardware = {hardware!r}: not a list of {', '.join(HARDWARE)}")
    require(len(set(kinds)) == len(kinds), f"hardware = {kinds!r} names one twice")
    for kind in kinds:
        require(kind in HARDWARE, f"hardware has {kind!r}: not one of {', '.join(HARDWARE)}")
    by_kind = devices if isinstance(devices, dict) else dict.fromkeys(kinds, devices)
    require(set(by_kind) <= set(kinds), f"devices = {devices!r} names more than hardware = {kinds!r}")
    counts = {}
    for kind in kinds:
        given = by_kind.get(kind, 1)
        numbers = given if isinstance(given, list) else [given]
        require(
            bool(numbers) and len(set(numbers)) == len(numbers) and all(type(n) is int and n >= 1 for n in numbers),
            f"devices of {kind} = {given!r}: not a count of at least 1, nor a list of different ones",
        )
        counts[kind] = tuple(numbers)
    return Declaration(
        package=package,
        name=name,
        srcs=tuple(srcs),
        tier=tier,
        counts=counts,
        listed=frozenset(kind for kind in kinds if isinstance(by_kind.get(kind), list)),
        env=env or {},
        allowed_skips=tuple(allowed_skips or ()),
    )


def _literals(call: ast.Call, place: str) -> dict[str, Any]:
    """The arguments that a run without Bazel needs; others, such as deps, may hold any expression."""
    values = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            raise ValueError(f"{place}:{call.lineno}: ** in a trainer_test: write its arguments out")
        if keyword.arg in _READ:
            try:
                values[keyword.arg] = ast.literal_eval(keyword.value)
            except ValueError:
                line = keyword.value.lineno
                raise ValueError(f"{place}:{line}: {keyword.arg} of a trainer_test: write it as a literal") from None
    for required in ("name", "srcs", "tier"):
        if required not in values:
            raise ValueError(f"{place}:{call.lineno}: a trainer_test without {required}: add it")
    return values
