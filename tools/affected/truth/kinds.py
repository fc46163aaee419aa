"""What a kind of change is: how it edits the workspace, and what the answer should be."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from random import Random
from typing import Literal

from tools.affected.truth.edits import Workspace

Truth = Literal["bazel", "spawn", "declared", "broken"]


@dataclasses.dataclass(frozen=True)
class Expected:
    """What a change should select, by the issue's table.

    Attributes:
      answer: `R` tests that depend on `labels`, `t` just `labels`, `0` none, `E` an error, `all` every test of
        `configuration` (of all, if it is ""), `?` whatever Bazel does.
      labels: files and targets, or tests.
      configuration: for `all`.
      touched: tests that were edited and yet should not run: truth `spawn` needs to know.
    """

    answer: Literal["R", "t", "0", "E", "all", "?"]
    labels: tuple[str, ...] = ()
    configuration: str = ""
    touched: tuple[str, ...] = ()


NONE = Expected("0")
ERROR = Expected("E")
ANY = Expected("?")

Apply = Callable[[Workspace, Random], Expected]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of change.

    Attributes:
      name: what it is called in reports.
      theme: what it is counted under.
      apply: edits the workspace at random; raises InapplicableError if it cannot.
      truth: who knows the right answer. `bazel`: what Bazel runs again with its local action cache. `spawn`: what is
        not answered by a warm disk cache (the keys of local actions hold tags that no process sees). `declared`:
        what Bazel runs and the table, because Bazel does not look (modes of files, content of source directories, its
        own version). `broken`: the table, because the build ends with an error before any test.
      alone: takes no part in pairs.
    """

    name: str
    theme: str
    apply: Apply
    truth: Truth = "bazel"
    alone: bool = False


def theme(kinds: dict[str, Kind], name: str) -> Callable[..., Callable[[Apply], Apply]]:
    """What registers functions in `kinds`, all under one theme: `@contents("data file", truth=..., alone=...)`."""

    def kind(kind_name: str, *, truth: Truth = "bazel", alone: bool = False) -> Callable[[Apply], Apply]:
        def register(apply: Apply) -> Apply:
            assert kind_name not in kinds, kind_name
            kinds[kind_name] = Kind(kind_name, name, apply, truth, alone)
            return apply

        return register

    return kind


def depend_on(*labels: str) -> Expected:
    """Tests that depend on files or targets."""
    return Expected("R", labels)


def just(*tests: str) -> Expected:
    """These tests."""
    return Expected("t", tests)


def everything(configuration: str = "") -> Expected:
    """Every test, of one configuration or of all."""
    return Expected("all", configuration=configuration)


def word(rng: Random) -> str:
    """A word that no file has yet."""
    return f"w{rng.getrandbits(48):x}"


def append_to_one(ws: Workspace, rng: Random, paths: Sequence[str]) -> Expected:
    """Adds a line to one of some files."""
    path = rng.choice(paths)
    ws.append(path, f"# {word(rng)}\n")
    return depend_on(ws.label(path))
