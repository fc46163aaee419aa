"""What tests execute: their actions, the actions that make their inputs, and the files that those read.

Nodes stand in the order of their dependencies: a pass over the list sees what a node depends on before the node. A
node is an action or a set of inputs that several actions share.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from tools.affected import messages

TEST_RUNNER = "TestRunner"
# Stands for the runfiles of a program.
MIDDLEMAN = "Middleman"
# What Bazel makes itself, from what the graph says: equal actions with equal inputs, equal outputs, and nothing to run.
_OWN_WORK = frozenset(
    {
        TEST_RUNNER,
        "FileWrite",
        MIDDLEMAN,
        "RepoMappingManifest",
        "SourceSymlinkManifest",
        "Symlink",
        "SymlinkTree",
        "TemplateExpand",
    }
)


# What says which file stands where in a program's runfiles, and under which names of repositories.
MANIFESTS = frozenset({"RepoMappingManifest", "SourceSymlinkManifest"})


@dataclasses.dataclass(frozen=True)
class Node:
    """An action, or a shared set of inputs (then `mnemonic` is "").

    Attributes:
      below: nodes that it depends on, as indices.
      sources: files that no action makes, as indices of `ActionGraph.sources`.
      mnemonic: kind of action.
      key: Bazel's fingerprint of the action, inputs left out.
      outputs: paths that it makes.
      label: the target that it makes them for.
      facts: of a test's own action: arguments, environment and execution requirements, `KIND: VALUE` each.
    """

    below: tuple[int, ...]
    sources: tuple[int, ...]
    mnemonic: str = ""
    key: str = ""
    outputs: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    label: str = ""

    @property
    def runs_a_program(self) -> bool:
        """Whether only a run shows what it makes: different inputs may give the same outputs."""
        return bool(self.mnemonic) and self.mnemonic not in _OWN_WORK


@dataclasses.dataclass(frozen=True)
class ActionGraph:
    """The actions behind tests.

    Attributes:
      nodes: dependencies first.
      sources: paths of files that no action makes, relative to the execution root.
      tests: label to its test actions (one a shard and run), as indices.
    """

    nodes: list[Node]
    sources: list[str]
    tests: dict[str, tuple[int, ...]]

    def to_json(self) -> dict[str, Any]:
        """As plain lists."""
        return {
            "nodes": [[n.below, n.sources, n.mnemonic, n.key, n.outputs, n.facts, n.label] for n in self.nodes],
            "sources": self.sources,
            "tests": self.tests,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ActionGraph:
        """The inverse of `to_json`."""
        return cls(
            nodes=[Node(tuple(b), tuple(s), m, k, tuple(o), tuple(f), t) for b, s, m, k, o, f, t in data["nodes"]],
            sources=data["sources"],
            tests={label: tuple(indices) for label, indices in data["tests"].items()},
        )


def read(data: bytes) -> ActionGraph:
    """The graph in the answer to `aquery 'deps(...)' --output=streamed_proto`, reduced to what test actions need."""
    return _Reader(data).graph()


def file_contents(data: bytes) -> dict[str, str]:
    """Output to content, of the actions of an aquery with --include_file_write_contents that say it."""
    reader = _Reader(data)
    return {
        reader.path(output): action.file_contents
        for action in reader.actions
        for output in action.outputs
        if action.file_contents
    }


@dataclasses.dataclass(frozen=True, slots=True)
class _Action:
    """What is kept of an action's message, which may hold far more: a template, for one."""

    target: int
    mnemonic: str
    key: str
    facts: tuple[str, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    file_contents: str


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.actions: list[_Action] = []
        self._labels: dict[int, str] = {}
        self._depsets: dict[int, Any] = {}
        self._fragments: dict[int, tuple[str, int]] = {}
        self._artifacts: dict[int, int] = {}
        self._paths: dict[int, str] = {0: ""}
        for piece in messages.action_graphs(data):
            self.actions += map(_kept, piece.actions)
            self._labels.update((t.id, t.label) for t in piece.targets)
            self._depsets.update((d.id, d) for d in piece.dep_set_of_files)
            self._fragments.update((f.id, (f.label, f.parent_id)) for f in piece.path_fragments)
            self._artifacts.update((a.id, a.path_fragment_id) for a in piece.artifacts)
        self._makers = {output: i for i, action in enumerate(self.actions) for output in action.outputs}
        self._manifests: dict[int, list[int]] = {}
        for i, action in enumerate(self.actions):
            if action.mnemonic in MANIFESTS:
                self._manifests.setdefault(action.target, []).append(i)
        self._nodes: list[Node] = []
        self._sources: dict[str, int] = {}
        self._done: dict[tuple[str, int], int] = {}

    def path(self, artifact: int) -> str:
        """Path of an artifact."""
        missing = []
        fragment = self._artifacts[artifact]
        while fragment not in self._paths:
            missing.append(fragment)
            fragment = self._fragments[fragment][1]
        for fragment in reversed(missing):
            label, parent = self._fragments[fragment]
            self._paths[fragment] = f"{self._paths[parent]}/{label}" if self._paths[parent] else label
        return self._paths[self._artifacts[artifact]]

    def graph(self) -> ActionGraph:
        """The graph below the test actions."""
        tests: dict[str, list[int]] = {}
        for i, action in enumerate(self.actions):
            if action.mnemonic == TEST_RUNNER:
                tests.setdefault(self._labels[action.target], []).append(self._place(("action", i)))
        return ActionGraph(
            nodes=self._nodes,
            sources=list(self._sources),
            tests={label: tuple(sorted(indices)) for label, indices in sorted(tests.items())},
        )

    def _place(self, root: tuple[str, int]) -> int:
        """Appends a node after all that it depends on; returns its index."""
        stack = [(root, False)]
        while stack:
            name, ready = stack.pop()
            if name in self._done:
                continue
            if ready:
                self._done[name] = len(self._nodes)
                self._nodes.append(self._node(name))
            else:
                stack.append((name, True))
                stack += [(below, False) for below in self._below(name) if below not in self._done]
        return self._done[root]

    def _below(self, name: tuple[str, int]) -> Iterator[tuple[str, int]]:
        kind, number = name
        if kind == "action":
            action = self.actions[number]
            for depset in action.inputs:
                yield "depset", depset
            if action.mnemonic == TEST_RUNNER:
                # With --nobuild_runfile_links no input says where a test finds its files, and yet it sees that.
                for manifest in self._manifests.get(action.target, ()):
                    yield "action", manifest
        else:
            depset = self._depsets[number]
            for inner in depset.transitive_dep_set_ids:
                yield "depset", inner
            for artifact in depset.direct_artifact_ids:
                if artifact in self._makers:
                    yield "action", self._makers[artifact]

    def _node(self, name: tuple[str, int]) -> Node:
        kind, number = name
        below = tuple(self._done[inner] for inner in self._below(name))
        if kind == "depset":
            found = [a for a in self._depsets[number].direct_artifact_ids if a not in self._makers]
            sources = tuple(self._sources.setdefault(self.path(a), len(self._sources)) for a in found)
            return Node(below, sources)
        action = self.actions[number]
        return Node(
            below=below,
            sources=(),
            mnemonic=action.mnemonic,
            key=action.key,
            outputs=tuple(self.path(output) for output in action.outputs),
            facts=action.facts,
            label="" if action.mnemonic in _OWN_WORK else self._labels.get(action.target, ""),
        )


def _kept(action: Any) -> _Action:
    return _Action(
        target=action.target_id,
        mnemonic=action.mnemonic,
        key=action.action_key,
        facts=tuple(_facts(action)) if action.mnemonic == TEST_RUNNER else (),
        inputs=tuple(action.input_dep_set_ids),
        outputs=tuple(action.output_ids),
        file_contents=action.file_contents,
    )


def _facts(action: Any) -> Iterator[str]:
    for argument in action.arguments:
        yield f"argument: {argument}"
    for pair in sorted(action.environment_variables, key=lambda pair: str(pair.key)):
        yield f"environment: {pair.key}={pair.value}"
    for pair in sorted(action.execution_info, key=lambda pair: str(pair.key)):
        yield f"execution: {pair.key}={pair.value}"
    yield f"platform: {action.execution_platform}"
