"""What the ranks of a launch do: call a plain function, or one test with its fixtures."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

from testing.distributed.context import RankContext, make_mesh
from testing.distributed.outcome import RankReport, observe
from testing.distributed.reference import FunctionRef, ModuleRef
from testing.distributed.subtests import RankSubtests

# Parameters of a test that every rank fills in for itself; pytest does not see the first four.
OF_RANK = ("rank", "world_size", "device", "mesh")
OF_RANK_FIXTURES = ("subtests", "monkeypatch")


class Call(Protocol):
    """Work for every rank."""

    @property
    def home(self) -> ModuleRef:
        """The module to import before the ranks fork."""

    def run(self, context: RankContext) -> RankReport:
        """Do the work inside an initialised process group."""


@dataclass(frozen=True)
class PlainCall:
    """``fn(*args)``; what it returns goes back to the caller."""

    fn: FunctionRef
    args: tuple[Any, ...]

    @property
    def home(self) -> ModuleRef:
        """The module of the function."""
        return self.fn.module

    def run(self, context: RankContext) -> RankReport:
        """Call the function."""
        return RankReport(observe(lambda: self.fn.load()(*self.args)))


@dataclass(frozen=True)
class TestCall:
    """One test.

    Attributes:
        fn: the undecorated test function.
        instance: object to bind it to if it is a method; gets the attributes ``OF_RANK``.
        fixtures: values of its fixtures and parameters, made by pytest's process.
        mesh_sizes: dimensions of the mesh, or None for no mesh.
    """

    __test__ = False  # pytest: not a test class

    fn: FunctionRef
    instance: Any
    fixtures: dict[str, Any]
    mesh_sizes: Mapping[str, int] | None

    @property
    def home(self) -> ModuleRef:
        """The module of the test."""
        return self.fn.module

    def run(self, context: RankContext) -> RankReport:
        """Call the test with its fixtures and what the rank fills in."""
        subtests = RankSubtests()
        with pytest.MonkeyPatch.context() as monkeypatch:
            fixtures = self.fixtures | {"subtests": subtests, "monkeypatch": monkeypatch}
            outcome = observe(lambda: self._call(context, fixtures))
        return RankReport(outcome, subtests.outcomes)

    def _call(self, context: RankContext, fixtures: dict[str, Any]) -> None:
        fn = self.fn.load()
        mesh = None if self.mesh_sizes is None else make_mesh(self.mesh_sizes, context.device)
        given = vars(context) | {"mesh": mesh}
        if self.instance is not None:
            for name, value in given.items():
                setattr(self.instance, name, value)
        wanted = inspect.signature(fn).parameters
        values = {name: value for name, value in (fixtures | given).items() if name in wanted}
        if self.instance is None:
            fn(**values)
        else:
            fn(self.instance, **values)
