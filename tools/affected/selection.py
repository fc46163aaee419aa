"""What a selection is: which tests a change affects, and why."""

from __future__ import annotations

import dataclasses

TIERS = ("lint", "unit", "subsystem", "smoke", "benchmark")
HARDWARE = ("cpu", "gpu", "trainium")


class SelectError(ValueError):
    """No answer can be given; the message says why and what mends it."""


@dataclasses.dataclass(frozen=True)
class Test:
    """A test target in the configuration that it runs in.

    Attributes:
      label: such as `//trainers/data:packing_test`.
      tags: as declared.
      configuration: name of the first configuration in which it is compatible.
      pool: the worker pool that its execution properties name; "" for none.
    """

    __test__ = False  # (for pytest, which collects classes of this name)

    label: str
    tags: tuple[str, ...]
    configuration: str
    pool: str = ""

    @property
    def tier(self) -> str:
        """The tier that its tags name; "" for none."""
        return next((tag for tag in self.tags if tag in TIERS), "")

    @property
    def hardware(self) -> str:
        """The hardware that its tags name; "" for none."""
        return next((tag for tag in self.tags if tag in HARDWARE), "")


@dataclasses.dataclass(frozen=True)
class Affected:
    """A test that has to run, and what makes it so.

    Attributes:
      test: the test.
      why: `new` (base has no such test), `content` (a file that its actions read differs), `action` (its actions
        themselves differ: arguments, environment, set of inputs, ...), `always` (it is tagged `external`, which Bazel
        never takes from its cache), `everything` (base says nothing).
      changes: what differs, most telling first, e.g. `trainers/data/packing.py`, `environment: A`.
    """

    test: Test
    why: str
    changes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Side:
    """One of the two states compared.

    Attributes:
      name: the revision as asked for, or `working tree`.
      tree: id of its git tree.
      cached: its snapshot came from the cache.
    """

    name: str
    tree: str
    cached: bool


@dataclasses.dataclass(frozen=True)
class Selection:
    """The answer.

    Attributes:
      base: what is compared with.
      head: what is asked about.
      affected: tests to run, by label.
      unaffected: tests that base's result still holds for, by label.
      deleted: labels of tests that only base has.
      elsewhere: labels of tests that are compatible with none of the configurations asked for.
      everything: why all tests were taken; None if the answer is exact.
    """

    base: Side
    head: Side
    affected: tuple[Affected, ...]
    unaffected: tuple[Test, ...]
    deleted: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()
    everything: str | None = None
