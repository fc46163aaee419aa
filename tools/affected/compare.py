"""Whether what a test executes differs between two action graphs, by content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping

from tools.affected.action_graph import MANIFESTS, MIDDLEMAN, TEST_RUNNER, ActionGraph, Node
from tools.affected.digests import EXTERNAL_FOLDER, GENERATED

Digest = Callable[[str], str]

# The order of dependencies enters their keys, but not what they write: which file stands where in the runfiles, and
# which repository is known by which name there.
_LAYOUTS = (*MANIFESTS, "SymlinkTree")
# How many changes of a test are told one by one.
_TOLD = 8


class Side:
    """One of the two graphs, with the contents of its source files."""

    def __init__(
        self,
        graph: ActionGraph,
        digest: Digest,
        layouts: Mapping[str, str] | None = None,
        products: Mapping[str, str] | None = None,
    ) -> None:
        """See the class.

        Args:
          graph: the actions.
          digest: source path to digest.
          layouts: what manifests of runfiles say, by path; None takes the actions' keys for it.
          products: digests of what programs made, by path; what is in it stands for the actions that made it.
        """
        self.graph = graph
        self._digest = digest
        self._sources = [f"{path} {digest(path)}" for path in graph.sources]
        self._layouts = layouts
        self._products = products or {}
        self._quick: dict[bool, list[bytes]] = {}
        self._exact: dict[tuple[bool, int], bytes] = {}
        self._inputs: dict[int, tuple[frozenset[str], frozenset[int]]] = {}

    def with_layouts(self, layouts: Mapping[str, str]) -> Side:
        """This side, knowing what its manifests of runfiles say."""
        return Side(self.graph, self._digest, layouts, self._products)

    def with_products(self, products: Mapping[str, str]) -> Side:
        """This side, knowing what programs made."""
        return Side(self.graph, self._digest, self._layouts, products)

    def quick(self, *, layout: bool) -> list[bytes]:
        """A hash per node. Equal hashes, equal actions; the same set of inputs may be grouped in several ways.

        Args:
          layout: the layout of runfiles counts.
        """
        if layout not in self._quick:
            hashes: list[bytes] = []
            for node in self.graph.nodes:
                known = self._is_known(node)
                parts = [] if known else sorted(hashes[below] for below in node.below)
                parts += sorted(self._sources[source].encode(errors="surrogateescape") for source in node.sources)
                hashes.append(_hash(self._header(node, layout), *parts))
            self._quick[layout] = hashes
        return self._quick[layout]

    def exact(self, node: int, *, layout: bool) -> bytes:
        """A hash of an action: equal exactly if it and its inputs are, however they are grouped."""
        if (layout, node) not in self._exact:
            # What actions make is made by nodes before them, so this ends, and no deeper than Bazel's own graph.
            order, stack = [], [node]
            seen = {node}
            while stack:
                place = stack.pop()
                order.append(place)
                for maker in self.inputs(place)[1]:
                    if maker not in seen and (layout, maker) not in self._exact:
                        seen.add(maker)
                        stack.append(maker)
            for place in sorted(order):
                sources, makers = self.inputs(place)
                parts = sorted(source.encode(errors="surrogateescape") for source in sources)
                parts += sorted(self._exact[layout, maker] for maker in makers)
                self._exact[layout, place] = _hash(self._header(self.graph.nodes[place], layout), *parts)
        return self._exact[layout, node]

    def inputs(self, node: int) -> tuple[frozenset[str], frozenset[int]]:
        """What an action reads: source files with their digests, and the actions that make the other inputs."""
        if node not in self._inputs and self._is_known(self.graph.nodes[node]):
            self._inputs[node] = frozenset(), frozenset()
        if node not in self._inputs:
            sources: set[str] = set()
            makers: set[int] = set()
            seen = {node}
            stack = [node]
            while stack:
                place = stack.pop()
                inner = self.graph.nodes[place]
                if inner.mnemonic and place != node:
                    makers.add(place)
                    continue
                sources.update(self._sources[source] for source in inner.sources)
                new = [below for below in inner.below if below not in seen]
                seen.update(new)
                stack += new
            self._inputs[node] = frozenset(sources), frozenset(makers)
        return self._inputs[node]

    def programs(self, label: str) -> set[int]:
        """The actions nearest to a test that run a program to make what it reads."""
        found: set[int] = set()
        seen = set(self.graph.tests[label])
        stack = list(seen)
        while stack:
            place = stack.pop()
            if self.graph.nodes[place].runs_a_program:
                found.add(place)
                continue
            new = [below for below in self.graph.nodes[place].below if below not in seen]
            seen.update(new)
            stack += new
        return found

    def reached(self, nodes: Iterable[int]) -> set[int]:
        """The nodes, and all that they depend on."""
        seen = set(nodes)
        stack = list(seen)
        while stack:
            new = [below for below in self.graph.nodes[stack.pop()].below if below not in seen]
            seen.update(new)
            stack += new
        return seen

    def reads_folder(self, node: int) -> bool:
        """Whether an action reads a folder of an external repository."""
        numbers = {number for place in self.reached([node]) for number in self.graph.nodes[place].sources}
        return any(self._sources[number] == f"{self.graph.sources[number]} {EXTERNAL_FOLDER}" for number in numbers)

    def digest(self, path: str) -> str:
        """Digest of a source."""
        return self._digest(path)

    def source(self, number: int) -> str:
        """Path and digest of a source."""
        return self._sources[number]

    def _is_known(self, node: Node) -> bool:
        return bool(self._products) and bool(node.outputs) and all(output in self._products for output in node.outputs)

    def _header(self, node: Node, layout: bool) -> bytes:
        if not node.mnemonic:
            return b""
        key = node.key
        if self._is_known(node):
            made = [f"{output} {self._products[output]}" for output in node.outputs]
            return "\0".join(made).encode(errors="surrogateescape")
        if node.mnemonic == TEST_RUNNER:
            key = "\0".join(node.facts)  # (its key holds the tags)
        elif node.mnemonic in _LAYOUTS:
            key = ""
            if layout and self._layouts is None:
                key = node.key
            elif layout and self._layouts is not None:
                key = "\0".join(self._layouts.get(output, "") for output in node.outputs)
        return "\0".join([node.mnemonic, key, *node.outputs]).encode(errors="surrogateescape")


def same(base: Side, head: Side, label: str, *, layout: bool) -> bool:
    """Whether a test's actions are the same on both sides.

    Args:
      base: one side.
      head: the other.
      label: a test that both have.
      layout: the layout of runfiles counts.
    """
    ours, theirs = head.graph.tests[label], base.graph.tests[label]
    if len(ours) != len(theirs):
        return False
    quick, other = head.quick(layout=layout), base.quick(layout=layout)
    if sorted(quick[i] for i in ours) == sorted(other[i] for i in theirs):
        return True
    return sorted(head.exact(i, layout=layout) for i in ours) == sorted(base.exact(i, layout=layout) for i in theirs)


def differs_at_sight(base: Side, inputs: ActionGraph, digest: Digest, label: str) -> tuple[str, ...]:
    """What differs about a test for certain, of what is seen without most actions of head; () where nothing is.

    Args:
      base: one side, whole.
      inputs: actions of head; what is made by those that it lacks counts as a source (`snapshot.ask_inputs`).
      digest: source path to digest, in head.
      label: a test that both have.
    """
    old, new = base.graph.tests[label], inputs.tests[label]
    facts_before, facts_after = _facts(base.graph, old), _facts(inputs, new)
    if len(old) != len(new) or facts_before != facts_after:
        return _told(old, new, facts_before, facts_after, {}, {})
    files_before, makers_before = _read_by(base.graph, old)
    files_after, makers_after = _read_by(inputs, new)
    made_after = {path for maker in makers_after for path in maker} | {
        f for f in files_after if f.startswith(GENERATED)
    }
    before = {path: base.digest(path) for path in files_before if not path.startswith(GENERATED)}
    after = {path: digest(path) for path in files_after if not path.startswith(GENERATED)}
    # (a maker of base may make more than the test reads)
    gone = any(made_after.isdisjoint(maker) for maker in makers_before)
    if before == after and not gone and made_after <= {path for maker in makers_before for path in maker}:
        return ()
    return _told(old, new, facts_before, facts_after, before, after) or ("what programs make for it",)


def _read_by(graph: ActionGraph, places: Iterable[int]) -> tuple[set[str], set[tuple[str, ...]]]:
    """What actions read: paths of sources, and the outputs of each action that makes the other inputs."""
    sources: set[str] = set()
    makers: set[tuple[str, ...]] = set()
    seen = set(places)
    stack = list(seen)
    while stack:
        node = graph.nodes[stack.pop()]
        if node.mnemonic not in ("", TEST_RUNNER, MIDDLEMAN):
            makers.add(node.outputs)
            continue
        sources.update(graph.sources[number] for number in node.sources)
        new = [below for below in node.below if below not in seen]
        seen.update(new)
        stack += new
    return sources, makers


def differing_products(base: Side, head: Side, labels: Iterable[str]) -> dict[str, list[str]]:
    """What programs make for tests that both sides have, where what they read differs: target to paths.

    A program that reads a folder of an external repository is left out: such a folder may be a package that is declared
    and not installed, and what the program makes then says nothing.
    """
    found: dict[str, list[str]] = {}
    after: dict[tuple[str, ...], int] = {}
    for label in labels:
        after.update((head.graph.nodes[i].outputs, i) for i in head.programs(label))
    for label in labels:
        for i in base.programs(label):
            node = base.graph.nodes[i]
            other = after.get(node.outputs)
            if other is None or base.reads_folder(i) or head.reads_folder(other):
                continue
            if base.exact(i, layout=True) != head.exact(other, layout=True):
                found.setdefault(head.graph.nodes[other].label, []).extend(node.outputs)
    return found


def keys(graph: ActionGraph, label: str) -> tuple[str, ...]:
    """The keys of a test's own actions; they cover its tags, size and time limit."""
    return tuple(sorted(graph.nodes[i].key for i in graph.tests[label]))


def changes(base: Side, head: Side, label: str) -> tuple[str, ...]:
    """What differs about a test, most telling first."""
    old, new = base.graph.tests[label], head.graph.tests[label]
    facts_before, facts_after = _facts(base.graph, old), _facts(head.graph, new)
    reached_before, reached_after = base.reached(old), head.reached(new)
    keys_before, keys_after = _keys(base, reached_before), _keys(head, reached_after)
    actions = [
        f"{keys_after[output][0]}: {output.removeprefix(GENERATED)}"
        for output in sorted(keys_after)
        if keys_before.get(output) != keys_after[output]
    ]
    files_before, files_after = _files(base, reached_before), _files(head, reached_after)
    told = _told(old, new, facts_before, facts_after, files_before, files_after, actions)
    return told or ("settings of the test: size, time limit, ...",)


def _facts(graph: ActionGraph, tests: Iterable[int]) -> set[str]:
    return {fact for i in tests for fact in graph.nodes[i].facts}


def _told(
    old: Collection[int],
    new: Collection[int],
    facts_before: set[str],
    facts_after: set[str],
    files_before: Mapping[str, str],
    files_after: Mapping[str, str],
    actions: Iterable[str] = (),
) -> tuple[str, ...]:
    """Differences in words, most telling first."""
    told = []
    if len(old) != len(new):
        told.append(f"test actions: {len(old)} -> {len(new)}")
    told += [f"+ {fact}" for fact in sorted(facts_after - facts_before)]
    told += [f"- {fact}" for fact in sorted(facts_before - facts_after)]
    told += [*_source_changes(files_before, files_after), *actions]
    if len(told) > _TOLD:
        told = [*told[: _TOLD - 1], f"... and {len(told) - _TOLD + 1} more"]
    return tuple(told)


def _files(side: Side, nodes: Iterable[int]) -> dict[str, str]:
    found = {}
    for place in nodes:
        for number in side.graph.nodes[place].sources:
            path = side.graph.sources[number]
            found[path] = side.source(number)
    return found


def _keys(side: Side, nodes: Iterable[int]) -> dict[str, tuple[str, str]]:
    found = {}
    for place in nodes:
        node = side.graph.nodes[place]
        if node.mnemonic and node.mnemonic not in (TEST_RUNNER, *_LAYOUTS):
            for output in node.outputs:
                found[output] = (node.mnemonic, node.key)
    return found


def _source_changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    told = [path for path in sorted(after) if path in before and before[path] != after[path]]
    told += [f"+ {path}" for path in sorted(after.keys() - before.keys())]
    told += [f"- {path}" for path in sorted(before.keys() - after.keys())]
    return told


def content_changes(
    graph: ActionGraph, differing: set[str], *, through_programs: bool = True
) -> dict[str, tuple[str, ...]]:
    """The tests that read one of some source files, itself or through what is made from it: label to those files.

    Args:
      graph: the actions.
      differing: paths of the files.
      through_programs: what a program makes from one of them counts.
    """
    numbers = {i for i, path in enumerate(graph.sources) if path in differing}
    dirty: dict[int, frozenset[int]] = {}
    for place, node in enumerate(graph.nodes):
        found = numbers.intersection(node.sources)
        for below in node.below:
            if below in dirty and (through_programs or not graph.nodes[below].runs_a_program):
                found |= dirty[below]
        if found:
            dirty[place] = frozenset(found)
    tests = {}
    for label, places in graph.tests.items():
        read: set[int] = set()
        for place in places:
            read |= dirty.get(place, frozenset())
        if read:
            paths = sorted(graph.sources[i] for i in read)
            tests[label] = tuple(
                paths if len(paths) <= _TOLD else [*paths[: _TOLD - 1], f"... and {len(paths) - _TOLD + 1} more"]
            )
    return tests


def _hash(*parts: bytes) -> bytes:
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.digest()
