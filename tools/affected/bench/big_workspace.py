"""A synthetic Bazel workspace of any size, with known dependencies, to measure on.

Packages of 20 targets: 9 libraries, a genrule whose output one of them takes, and 10 tests. They stand in layers; a
library uses others of its own package, of packages near it in the layer below, and one in three of a few hub libraries.
So what a test reaches is bounded whatever the size, and what reaches a hub grows with it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tools.bazel import host_bazel

LIBRARIES, TESTS = 9, 10
PACKAGE = LIBRARIES + 1 + TESTS
LAYERS = 8
HUBS = 3
# Packages of the layer below, on each side, that a package may use.
_NEAR = 2
_TAGS = (["unit", "cpu"], ["unit", "cpu"], ["subsystem", "cpu"], ["subsystem", "gpu"], ["smoke", "gpu"])
CHANGES = ("nothing", "a leaf library", "a hub library", "BUILD: a test", "BUILD: a hub library")


@dataclasses.dataclass(frozen=True)
class Workspace:
    """What was written.

    Attributes:
      files: path to content.
      dependencies: label of a target to the labels that it names; files are not among them.
      tests: labels of all tests.
      leaf: a library that hardly anything uses.
      hub: a library that a large share of all uses.
    """

    files: Mapping[str, str]
    dependencies: Mapping[str, tuple[str, ...]]
    tests: frozenset[str]
    leaf: str
    hub: str

    def dependents(self, label: str) -> frozenset[str]:
        """The tests that reach a target."""
        users: dict[str, list[str]] = {}
        for user, used in self.dependencies.items():
            for each in used:
                users.setdefault(each, []).append(user)
        seen, stack = {label}, [label]
        while stack:
            for user in users.get(stack.pop(), ()):
                if user not in seen:
                    seen.add(user)
                    stack.append(user)
        return self.tests & seen

    def edit(self, change: str, turn: int) -> tuple[dict[str, str], frozenset[str]]:
        """Files to write for one of CHANGES, other content for every `turn`, and the tests that it affects.

        Raises:
          ValueError: there is no such change.
        """
        match change:
            case "nothing":
                return {}, frozenset()
            case "a leaf library" | "a hub library":
                label = self.leaf if change == "a leaf library" else self.hub
                path = label.removeprefix("//").replace(":", "/") + ".py"
                return {path: self.files[path] + f"# {turn}\n"}, self.dependents(label)
            case "BUILD: a test":
                label = min(self.tests & self.dependents(self.leaf))
                return self._with_attribute(label, f'env = {{"TURN": "{turn}"}}'), frozenset({label})
            case "BUILD: a hub library":
                note = f"note{turn}.txt"
                package = self.hub.removeprefix("//").partition(":")[0]
                edits = self._with_attribute(self.hub, f'data = ["{note}"]')
                return {**edits, f"{package}/{note}": f"{turn}\n"}, self.dependents(self.hub)
        raise ValueError(f"no change {change!r}: there are {', '.join(CHANGES)}")

    def _with_attribute(self, label: str, attribute: str) -> dict[str, str]:
        package, _, name = label.removeprefix("//").partition(":")
        path = f"{package}/BUILD.bazel"
        before = f'    name = "{name}",\n'
        return {path: self.files[path].replace(before, f"{before}    {attribute},\n")}


def plan(targets: int) -> Workspace:
    """The workspace of so many targets; the same number gives the same one.

    Raises:
      ValueError: the number is no multiple of a package's, or too small for the layers.
    """
    if targets % PACKAGE or targets < PACKAGE * LAYERS:
        raise ValueError(
            f"{targets} targets: a package has {PACKAGE} and there are {LAYERS} layers of them, so take a multiple of "
            f"{PACKAGE} from {PACKAGE * LAYERS} on, such as {max(PACKAGE * LAYERS, targets // PACKAGE * PACKAGE)}"
        )
    rng = random.Random(targets)
    count = targets // PACKAGE
    layers: list[list[str]] = [[] for _ in range(LAYERS)]
    for number in range(count):
        layers[number * LAYERS // count].append(f"layer{number * LAYERS // count}/p{number}")
    hubs = [f"//{layers[0][0]}:l{i}" for i in range(HUBS)]
    files: dict[str, str] = {}
    dependencies: dict[str, tuple[str, ...]] = {}
    tests: set[str] = set()
    for layer, packages in enumerate(layers):
        for place, package in enumerate(packages):
            near = _near(layers[layer - 1], place / len(packages)) if layer else []
            rules = [_genrule(package, dependencies, files)]
            for i in range(LIBRARIES):
                used = [f"//{package}:l{rng.randrange(i)}"] if i and rng.random() < 0.5 else []
                used += [f"//{rng.choice(near)}:l{rng.randrange(LIBRARIES)}" for _ in range(2 if near else 0)]
                used += [rng.choice(hubs)] if rng.random() < 1 / 3 and f"//{package}:l{i}" not in hubs else []
                rules.append(_library(package, i, sorted(set(used)), dependencies, files))
            for i in range(TESTS):
                # The last test takes two libraries together.
                used = [f"//{package}:l{i}"] if i < LIBRARIES else [f"//{package}:l0", f"//{package}:l1"]
                rules.append(_test(package, i, used, rng.choice(_TAGS), dependencies, files))
                tests.add(f"//{package}:t{i}")
            loads = 'load("@rules_python//python:defs.bzl", "py_library", "py_test")\n\n'
            visible = 'package(default_visibility = ["//visibility:public"])\n\n'
            files[f"{package}/BUILD.bazel"] = loads + visible + "\n".join(rules)
    return Workspace(files, dependencies, frozenset(tests), leaf=f"//{layers[-1][-1]}:l{LIBRARIES - 1}", hub=hubs[-1])


def write(workspace: Workspace, root: Path, bazel_version: str) -> None:
    """Writes a workspace to an empty folder and commits it; the commit is the same wherever that is done.

    Args:
      workspace: what to write.
      root: the folder.
      bazel_version: for its .bazelversion.
    """
    host_bazel.make_workspace(root)
    own = {
        ".bazelversion": f"{bazel_version}\n",
        ".bazelignore": "third_party/modules\n",
        ".gitignore": "/bazel-*\n",
        "MODULE.bazel": 'module(name = "big")\nbazel_dep(name = "rules_python", version = "1.8.5")\n',
    }
    write_files(root, {**own, **workspace.files})
    git(root, "init", "--quiet", "--initial-branch=main")
    commit(root, "base")


def write_files(root: Path, files: Mapping[str, str]) -> None:
    """Writes files below `root`."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def commit(root: Path, message: str) -> str:
    """Commits all that is in the working tree; returns the commit's id."""
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--allow-empty", f"--message={message}")
    return git(root, "rev-parse", "HEAD").strip()


def git(root: Path, *arguments: str) -> str:
    """Runs git with settings, author and date of its own; returns what it says.

    Raises:
      RuntimeError: git failed.
    """
    environ = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "PATH": os.environ["PATH"]}
    for who in ("AUTHOR", "COMMITTER"):
        environ |= {f"GIT_{who}_NAME": "bench", f"GIT_{who}_EMAIL": "bench@example.com"}
        environ |= {f"GIT_{who}_DATE": "2026-01-01T00:00:00Z"}
    result = subprocess.run(["git", *arguments], cwd=root, env=environ, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"git {' '.join(arguments)} failed in {root}: {result.stderr}")
    return result.stdout


def _near(packages: list[str], place: float) -> list[str]:
    middle = int(place * len(packages))
    return packages[max(0, middle - _NEAR) : middle + _NEAR + 1]


def _genrule(package: str, dependencies: dict[str, tuple[str, ...]], files: dict[str, str]) -> str:
    dependencies[f"//{package}:table"] = ()
    files[f"{package}/table.in"] = f"{package}\n"
    return _rule("genrule", name="table", srcs=["table.in"], outs=["table.txt"], cmd="tr a-z A-Z < $< > $@")


def _library(
    package: str, i: int, used: list[str], dependencies: dict[str, tuple[str, ...]], files: dict[str, str]
) -> str:
    table = [f"//{package}:table"] if i == 0 else []
    dependencies[f"//{package}:l{i}"] = (*used, *table)
    files[f"{package}/l{i}.py"] = _source(used)
    return _rule("py_library", name=f"l{i}", srcs=[f"l{i}.py"], data=table, deps=used)


def _test(
    package: str,
    i: int,
    used: list[str],
    tags: list[str],
    dependencies: dict[str, tuple[str, ...]],
    files: dict[str, str],
) -> str:
    dependencies[f"//{package}:t{i}"] = tuple(used)
    files[f"{package}/t{i}.py"] = _source(used)
    return _rule("py_test", name=f"t{i}", size="small", srcs=[f"t{i}.py"], tags=tags, deps=used)


def _source(used: list[str]) -> str:
    """A module that imports what it depends on."""
    modules = [label.removeprefix("//").replace("/", ".").replace(":", ".") for label in used]
    return "".join(f"import {module}\n" for module in modules) + "\nVALUE = 1\n"


def _rule(rule_class: str, **attributes: str | list[str]) -> str:
    # json's lists and strings are Starlark's
    lines = [f"    {name} = {json.dumps(value)},\n" for name, value in attributes.items() if value]
    return f"{rule_class}(\n{''.join(lines)})\n"
