"""The pytest plugin for runs without Bazel: each test file is what the BUILD.bazel beside it declares.

`conftest.py` of the repo root registers it. `--hardware` and `--devices` choose among the targets of a declaration;
tests of other targets, and benchmarks unless `-m` names them, are deselected without being imported.
"""

import ast
import collections
import os
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from unittest import mock

import pytest

from testing.runner import hardware
from testing.runner.declaration import BUILD_FILE, Declaration, read_declarations
from testing.runner.policy import Policy
from testing.runner.target import HARDWARE, TIERS, Target


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --hardware and --devices."""
    group = parser.getgroup("trainyard")
    group.addoption(
        "--hardware", choices=HARDWARE, help="run the tests for this hardware; default: what -m asks, or cpu"
    )
    group.addoption("--devices", type=int, metavar="N", help="use N accelerators; default: all that are visible")


def pytest_configure(config: pytest.Config) -> None:
    """Checks the hardware and registers the policy."""
    if getattr(config.option, "numprocesses", None):
        raise pytest.UsageError("-n: pytest-xdist shares devices among processes without assigning them; use Bazel")
    expression = config.option.markexpr
    kind = config.option.hardware or implied_hardware(expression)
    try:
        devices = _take_devices(kind, config.option.devices)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    selection = Selection(config.rootpath, kind, len(devices) or config.option.devices, wants_benchmarks(expression))
    selection.device_names = [device.name for device in devices]
    config.pluginmanager.register(selection, "trainyard-selection")
    config.pluginmanager.register(Policy(selection.target_of), "trainyard-policy")


def _take_devices(kind: str, count: int | None) -> list[hardware.Device]:
    """Checks that the accelerators are there and hides all others; also sets what the Bazel runner would set."""
    if count is not None and count < 1:
        raise ValueError(f"--devices={count}: at least 1")
    devices = []
    if kind != "cpu":
        devices = hardware.find_devices(kind, os.environ)
        hardware.check_devices(f"--hardware={kind}", kind, count or 1, devices)
        devices = devices[:count]
    hardware.restrict(os.environ, kind, devices)
    os.environ["TRAINYARD_HARDWARE"] = kind
    if devices or count:
        os.environ["TRAINYARD_DEVICES"] = str(len(devices) or count)
    return devices


class Selection:
    """Which files run here, and as which target.

    Args:
        root: of the repo.
        kind: the hardware of this run.
        devices: how many; None for as many as a test declares.
        benchmarks: whether benchmarks run.
    """

    def __init__(self, root: Path, kind: str, devices: int | None, benchmarks: bool) -> None:
        self.root = root
        self.kind = kind
        self.devices = devices
        self.benchmarks = benchmarks
        self.device_names: list[str] = []
        self._undeclared: list[Path] = []
        self._left_out: collections.Counter[str] = collections.Counter()

    def target_of(self, path: Path) -> Target:
        """The target that a test file belongs to in this run."""
        declaration = self._declaration(path)
        target = declaration.target_on(self.kind, self.devices) if declaration else None
        assert target is not None, path  # else the file is not collected
        return target

    def _declaration(self, path: Path) -> Declaration | None:
        """What the BUILD file of the nearest package says of a test file; None if it does not name it."""
        folder = next((folder for folder in path.parents if (folder / BUILD_FILE).exists()), path.parent)
        if not folder.is_relative_to(self.root):
            return None
        name = path.relative_to(folder).as_posix()
        try:
            found = [d for d in read_declarations(folder, self.root) if name in d.srcs]
        except ValueError as error:
            raise pytest.UsageError(str(error)) from None
        if len(found) > 1:
            names = " and ".join(declaration.name for declaration in found)
            raise pytest.UsageError(
                f"{folder.relative_to(self.root)}/{BUILD_FILE} declares {name} in {names}: one trainer_test per file"
            )
        return found[0] if found else None

    def _why_not(self, declaration: Declaration) -> str | None:
        """Why a declared file does not run here."""
        if declaration.tier == "benchmark" and not self.benchmarks:
            return "benchmark: -m benchmark"
        if declaration.target_on(self.kind, self.devices) is None:
            if self.kind in declaration.counts:
                return f"more than {self.devices} devices: --devices={min(declaration.counts[self.kind])}"
            return f"not for {self.kind}: --hardware={'|'.join(declaration.counts)}"
        return None

    # Hooks

    def pytest_report_header(self) -> str:
        """Says what the run stands for."""
        devices = f" x{len(self.device_names)}: {', '.join(self.device_names)}" if self.device_names else ""
        return f"hardware: {self.kind}{devices}"

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makemodule(self, module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
        """Puts a stand-in for a file that does not run here, which is never imported."""
        declaration = self._declaration(module_path)
        if declaration is None:
            self._undeclared.append(module_path)
            return _StandIn.from_parent(parent, path=module_path)
        reason = self._why_not(declaration)
        if reason is None:
            return None
        self._left_out[reason] += 1
        return _StandIn.from_parent(parent, path=module_path)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> Generator[None, None, None]:
        """Deselects the stand-ins, so that they are counted."""
        if self._undeclared:
            files = "\n  ".join(str(path.relative_to(self.root)) for path in self._undeclared)
            raise pytest.UsageError(
                f"test files without a declaration; name each in srcs of a trainer_test in its {BUILD_FILE}:\n  {files}"
            )
        stand_ins = [item for item in items if isinstance(item, _StandInItem)]
        if stand_ins:
            config.hook.pytest_deselected(items=stand_ins)
            items[:] = [item for item in items if not isinstance(item, _StandInItem)]
        return (yield)

    def pytest_report_collectionfinish(self) -> list[str]:
        """Says which files were left out, and how to run them."""
        return [f"{count} files deselected, {reason}" for reason, count in sorted(self._left_out.items())]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Gives a test the environment that its declaration states."""
        declaration = self._declaration(item.path)
        assert declaration is not None
        with mock.patch.dict(os.environ, declaration.env):
            return (yield)


class _StandIn(pytest.Module):
    """A file that is deselected as a whole."""

    def collect(self) -> Iterator[pytest.Item]:
        yield _StandInItem.from_parent(self, name="*")


class _StandInItem(pytest.Item):
    def runtest(self) -> None:
        raise AssertionError("deselected")


def implied_hardware(expression: str) -> str:
    """The hardware that `-m` asks for: the first whose tests it can select, cpu before gpu before trainium."""
    for kind in HARDWARE:
        extras: list[set[str]] = [set(), {"multi_gpu"}] if kind == "gpu" else [set()]
        if any(_selects(expression, {kind, tier} | extra) for tier in TIERS for extra in extras):
            return kind
    return "cpu"


def wants_benchmarks(expression: str) -> bool:
    """Whether `-m` names benchmarks and selects some."""
    named = re.search(r"\bbenchmark\b", expression) is not None
    return named and any(_selects(expression, {"benchmark", kind, "multi_gpu"}) for kind in HARDWARE)


def _selects(expression: str, markers: set[str]) -> bool:
    """Evaluates a `-m` expression of names, and, or, not; true for others, on which pytest decides."""

    def value(node: ast.expr) -> bool:
        match node:
            case ast.BoolOp(ast.And(), operands):
                return all(value(operand) for operand in operands)
            case ast.BoolOp(ast.Or(), operands):
                return any(value(operand) for operand in operands)
            case ast.UnaryOp(ast.Not(), operand):
                return not value(operand)
            case ast.Name(name):
                return name in markers
        return True

    try:
        return value(ast.parse(expression.strip() or "True", mode="eval").body)
    except SyntaxError:
        return True
