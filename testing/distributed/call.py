"""What the ranks of a launch do: call a plain function, or one test with its fixtures."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

from testing.distributed.context import RankContext, make_mesh
from testing.distributed.outcome import RankReport, observe
from testing.distributed.reference import ModuleRef, Ref, unpack_named
from testing.distributed.subtests import RankSubtests

# Parameters of a test that every rank fills in for itself; pytest does not see them.
OF_RANK = ("rank", "world_size", "device", "mesh")
# Fixtures of pytest that every rank makes for itself.
OF_RANK_FIXTURES = ("subtests", "monkeypatch")
# Kinds of values that travel.
FIXTURE, ATTRIBUTE = "fixture", "attribute"


class Call(Protocol):
    """Work for every rank. Travels pickled, so it holds references and bytes, nothing that may fail on the way."""

    @property
    def home(self) -> ModuleRef:
        """The module to import before the ranks fork."""

    def run(self, context: RankContext) -> RankReport:
        """Do the work inside an initialised process group."""


@dataclass(frozen=True)
class PlainCall:
    """``fn(*args)``; what it returns goes back to the caller. ``args`` are packed."""

    fn: Ref
    args: bytes

    @property
    def home(self) -> ModuleRef:
        """The module of the function."""
        return self.fn.module

    def run(self, context: RankContext) -> RankReport:
        """Call the function."""
        return RankReport(observe(lambda: self.fn.load()(*unpack_named(self.args).values())))


@dataclass(frozen=True)
class TestCall:
    """One test.

    Attributes:
        fn: the undecorated test function.
        owner: the test class if it is a method.
        values: packed by name, ``fixture x`` for its fixtures and parameters, which pytest's process has made, and
            ``attribute x`` for what they left on the test object.
        mesh_sizes: dimensions of the mesh, or None for no mesh.
    """

    __test__ = False  # pytest: not a test class

    fn: Ref
    owner: Ref | None
    values: bytes
    mesh_sizes: Mapping[str, int] | None

    @property
    def home(self) -> ModuleRef:
        """The module of the test, or of its class, which may have inherited the test."""
        return self.fn.module if self.owner is None else self.owner.module

    def run(self, context: RankContext) -> RankReport:
        """Call the test with its fixtures and what the rank fills in."""
        subtests = RankSubtests()
        with pytest.MonkeyPatch.context() as monkeypatch:
            own = {"subtests": subtests, "monkeypatch": monkeypatch}
            outcome = observe(lambda: self._call(context, own))
        return RankReport(outcome, subtests.outcomes)

    def _call(self, context: RankContext, own: dict[str, Any]) -> None:
        fn = self.fn.load()
        mesh = None if self.mesh_sizes is None else make_mesh(self.mesh_sizes, context.device)
        given = vars(context) | {"mesh": mesh}
        values = own | given
        attributes: dict[str, Any] = {}
        for name, value in unpack_named(self.values).items():
            kind, _, name = name.partition(" ")
            (values if kind == FIXTURE else attributes)[name] = value
        wanted = inspect.signature(fn).parameters
        arguments = {name: value for name, value in values.items() if name in wanted}
        if self.owner is None:
            fn(**arguments)
        else:
            instance = object.__new__(self.owner.load())
            vars(instance).update(attributes | given)
            fn(instance, **arguments)
