"""What Bazel says about the tests of one tree in one configuration, kept by content."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import sys
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from tools.affected import action_graph, target_graph
from tools.affected.action_graph import ActionGraph
from tools.affected.digests import GENERATED, external_digests, links_into
from tools.affected.private_bazel import BazelError, PrivateBazel, rc_lines
from tools.affected.target_graph import TargetGraph, TestTarget

# Files whose content may change any target's analysis without showing in an attribute.
SURROUNDINGS = ("MODULE.bazel", "WORKSPACE", "WORKSPACE.bazel", "WORKSPACE.bzlmod", ".bazelversion", "REPO.bazel")
_TESTS = "tests(//...)"
_TESTS_FILE, _ACTIONS_FILE, _TARGETS_FILE = "tests.json", "actions.json", "targets.json"
_CQUERY = ("--output=proto", "--noproto:default_values", "--noproto:locations")
# Zips of Python programs, which tests do not read unless a target asks for them: they double the answer.
_WITHOUT_ZIPS = 'mnemonic("^(?!PythonZipper$).*", {})'
# What is made from a template: each says its whole template, which is most of an answer about Python programs.
_WITHOUT_TEMPLATES = 'mnemonic("^(?!(PythonZipper|TemplateExpand)$).*", {})'
# What stamped actions read: a change of the first runs them again.
STAMP = "bazel-out/stable-status.txt"
_STATUS_FILES = (STAMP, "bazel-out/volatile-status.txt")
# What decides the content of a snapshot: a change of these modules gives another one.
_MODULES = (
    "action_graph.py",
    "digests.py",
    "git_trees.py",
    "messages.py",
    "private_bazel.py",
    "snapshot.py",
    "target_graph.py",
)


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """The tests of a tree in one configuration.

    Attributes:
      tests: label to what it declares.
      compatible: labels of those that can run in this configuration.
      toolchains: the toolchains that Bazel resolved.
      surroundings: hash of what decides about all targets.
      sources: files that the tests' actions read and no action makes.
      external: digests of those that belong to external repositories.
      linked: which of these are links into the workspace, and to which file there.
      read: the files of the workspace whose content decides about its targets; None where that is not known.
      links: whether the tree has symbolic links.
      file: where the rest is kept.
    """

    tests: dict[str, TestTarget]
    compatible: frozenset[str]
    toolchains: tuple[str, ...]
    surroundings: str
    sources: tuple[str, ...]
    external: dict[str, str]
    linked: dict[str, str]
    read: frozenset[str] | None
    links: bool
    file: Path

    def actions(self) -> ActionGraph:
        """The action graph (read when it is needed)."""
        return ActionGraph.from_json(_member(self.file, _ACTIONS_FILE))

    def targets(self) -> TargetGraph:
        """The target graph (read when it is needed)."""
        data = _member(self.file, _TARGETS_FILE)
        return TargetGraph(
            own=data["own"],
            edges={label: tuple(named) for label, named in data["edges"].items()},
            tests=self.tests,
            toolchains=self.toolchains,
            hidden=tuple(data["hidden"]),
            surroundings=self.surroundings,
        )


def key(tree: str, bazel_version: str, flags: Sequence[str]) -> str:
    """The name of a snapshot: equal names, equal contents, on any machine."""
    here = Path(__file__).parent
    facts = [
        tree,
        bazel_version,
        list(flags),
        [hashlib.sha256((here / name).read_bytes()).hexdigest() for name in _MODULES],
        # The interpreter is an input of tests.
        [platform.system(), platform.machine(), sys.version, os.path.realpath(sys.executable)],
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def load(file: Path) -> Snapshot | None:
    """A snapshot that was kept; None where there is none, or only a damaged one."""
    try:
        with zipfile.ZipFile(file) as archive:
            if archive.testzip() is not None or set(archive.namelist()) != {_TESTS_FILE, _ACTIONS_FILE, _TARGETS_FILE}:
                return None
        data = _member(file, _TESTS_FILE)
        return Snapshot(
            tests={label: TestTarget(**{**t, "tags": tuple(t["tags"])}) for label, t in data["tests"].items()},
            compatible=frozenset(data["compatible"]),
            toolchains=tuple(data["toolchains"]),
            surroundings=data["surroundings"],
            sources=tuple(data["sources"]),
            external=data["external"],
            linked=data["linked"],
            read=None if data["read"] is None else frozenset(data["read"]),
            links=data["links"],
            file=file,
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error):
        return None


def take(bazel: PrivateBazel, flags: Sequence[str], only: Sequence[str] | None, links: bool, file: Path) -> Snapshot:
    """Asks Bazel about the tree that is checked out, and keeps the answer in `file`.

    Args:
      bazel: the server on the tree.
      flags: the configuration.
      only: labels of tests to look at; None for all.
      links: whether the tree has symbolic links.
      file: where to keep it.

    Raises:
      BazelError: the tree does not load.
    """
    transitions = ask_tests(bazel, flags, only, "--transitions=lite").decode()
    targets = read_targets(bazel, flags, only, target_graph.toolchains(transitions))
    graph = ask_actions(bazel, flags, sorted(targets.tests))
    external = external_digests(graph.sources, bazel.output_base)
    read = bazel.read_files()
    tests = {
        "tests": {label: dataclasses.asdict(test) for label, test in sorted(targets.tests.items())},
        "compatible": sorted(graph.tests),
        "toolchains": targets.toolchains,
        "surroundings": targets.surroundings,
        "sources": graph.sources,
        "external": external,
        "linked": links_into(external, bazel.output_base, bazel.folder),
        "read": None if read is None else sorted({*read, *SURROUNDINGS}),
        "links": links,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    members = {
        _TESTS_FILE: tests,
        _ACTIONS_FILE: graph.to_json(),
        _TARGETS_FILE: {"own": targets.own, "edges": targets.edges, "hidden": targets.hidden},
    }
    unfinished = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, data in members.items():
                archive.writestr(zipfile.ZipInfo(name), json.dumps(data, separators=(",", ":")), zipfile.ZIP_DEFLATED)
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)
    found = load(file)
    assert found is not None
    return found


def ask_tests(bazel: PrivateBazel, flags: Sequence[str], only: Sequence[str] | None, *output: str) -> bytes:
    """`cquery` of everything that tests depend on.

    Raises:
      BazelError: the tree does not load.
    """
    if only is not None:
        return bazel.cquery(f"deps({_set(only)})", *flags, *output)
    try:
        return bazel.cquery(f"deps({_TESTS})", *flags, *output)
    except BazelError as error:
        # A target that only its name can ask for may be broken: `bazel test //...` does not look at it either.
        tests = default_tests(bazel)
        try:
            return bazel.cquery(f"deps({_set(tests)})", *flags, *output)
        except BazelError:
            raise error from None


def default_tests(bazel: PrivateBazel) -> list[str]:
    """Labels of the tests that `//...` takes.

    Raises:
      BazelError: a BUILD file does not load.
    """
    return bazel.query(rf'{_TESTS} except attr("tags", "[\[ ]manual[,\]]", //...)').decode().split()


def read_targets(
    bazel: PrivateBazel, flags: Sequence[str], only: Sequence[str] | None, toolchains: tuple[str, ...]
) -> TargetGraph:
    """The target graph of the tree that is checked out.

    Raises:
      BazelError: the tree does not load.
    """
    surroundings = [f"{name} {_text(bazel.folder / name)}" for name in SURROUNDINGS]
    surroundings.append(json.dumps(rc_lines(bazel.folder / ".bazelrc", bazel.folder)))
    answer = ask_tests(bazel, flags, only, *_CQUERY)
    try:
        return target_graph.read(answer, toolchains, "\n".join(surroundings))
    except DecodeError as error:
        raise BazelError(f"ERROR: its answer about targets cannot be read: {error}; run again") from error


def ask_actions(bazel: PrivateBazel, flags: Sequence[str], labels: Sequence[str]) -> ActionGraph:
    """The action graph behind some tests; those that are incompatible have no actions.

    Raises:
      BazelError: the tree does not load.
    """
    if not labels:
        return ActionGraph([], [], {})
    expression = f"deps({_set(labels)})"
    graph = _read_actions(bazel, _WITHOUT_ZIPS.format(expression), flags)
    if any(path.startswith(GENERATED) and path not in _STATUS_FILES for path in graph.sources):
        graph = _read_actions(bazel, expression, flags)
    wanted = set(labels)
    return dataclasses.replace(graph, tests={label: i for label, i in graph.tests.items() if label in wanted})


def ask_inputs(bazel: PrivateBazel, flags: Sequence[str], labels: Sequence[str]) -> ActionGraph:
    """As `ask_actions`, at a small part of its cost: some actions are left out, and what they make counts as a source.

    Raises:
      BazelError: the tree does not load.
    """
    return _read_actions(bazel, _WITHOUT_TEMPLATES.format(f"deps({_set(labels)})"), flags)


def _read_actions(bazel: PrivateBazel, expression: str, flags: Sequence[str]) -> ActionGraph:
    try:
        return action_graph.read(bazel.aquery(expression, *flags, "--output=streamed_proto"))
    except (DecodeError, IndexError, KeyError) as error:
        raise BazelError(f"ERROR: its answer about actions cannot be read: {error!r}; run again") from error


def ask_layouts(bazel: PrivateBazel, flags: Sequence[str], labels: Sequence[str]) -> Mapping[str, str]:
    """Manifest to what it says: which file stands where in a program's runfiles, under which names of repositories.

    Raises:
      BazelError: the tree does not load.
    """
    data = bazel.aquery(
        f'mnemonic("RepoMappingManifest|SourceSymlinkManifest", deps({_set(labels)}))',
        *flags,
        "--output=streamed_proto",
        "--include_file_write_contents",
    )
    return action_graph.file_contents(data)


def _set(labels: Sequence[str]) -> str:
    return f"set({' '.join(chr(34) + label + chr(34) for label in labels)})"


def _text(file: Path) -> str:
    return file.read_text() if file.is_file() else ""


def _member(file: Path, name: str) -> dict[str, Any]:
    with zipfile.ZipFile(file) as archive:
        data: dict[str, Any] = json.loads(archive.read(name))
        return data
