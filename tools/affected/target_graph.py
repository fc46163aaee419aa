"""The configured targets behind the tests, and a hash of each test's structure.

The structure of a test is all that decides what its actions look like: attributes and rule implementations of the
targets that it reaches, their configurations, the toolchains. The contents of source files are not part of it. Two
tests with the same structure have the same action graph; the contrary does not hold: then the action graphs decide.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from tools.affected import messages

# Where a target was written; moving a line changes nothing.
_PLACES = ("generator_location",)
# What decides about targets that do not name it.
_HIDDEN_KINDS = ("platform", "toolchain")
_POOL_KEYS = ("test.Pool", "Pool")
_TOOLCHAIN_EDGE = re.compile(r"\[toolchain dependency[^\]]*\]#([^#\s]+)#")


@dataclasses.dataclass(frozen=True)
class TestTarget:
    """A test, as declared.

    Attributes:
      structure: hash over all that it reaches.
      tags: its tags.
      pool: the worker pool that its execution properties name, or "".
      untagged: `structure` without its own tags, and without files that decide about all targets: of these, the flags
        that reach its configuration are in it.
    """

    structure: str
    tags: tuple[str, ...]
    pool: str
    untagged: str


@dataclasses.dataclass(frozen=True)
class TargetGraph:
    """The targets that tests depend on.

    Attributes:
      own: label to a hash of the target itself, of all its configurations.
      edges: label to the labels that it names.
      tests: those that a run of `//...` takes.
      toolchains: labels of the toolchains that Bazel resolved; no attribute names them.
      hidden: labels of what every test may depend on without naming it: the toolchains, and what only they reach.
      surroundings: hash of what else may decide how targets are analysed.
    """

    own: dict[str, str]
    edges: dict[str, tuple[str, ...]]
    tests: dict[str, TestTarget]
    toolchains: tuple[str, ...]
    hidden: tuple[str, ...]
    surroundings: str


def toolchains(transitions: str) -> tuple[str, ...]:
    """The resolved toolchains in the answer to `cquery --transitions=lite`."""
    return tuple(sorted(set(_TOOLCHAIN_EDGE.findall(transitions))))


def read(data: bytes, known_toolchains: Iterable[str], surroundings: str) -> TargetGraph:
    """The graph in the answer to `cquery 'deps(tests(//...))' --output=proto`.

    Args:
      data: the answer.
      known_toolchains: from `toolchains`, of this tree or of one that it is compared with.
      surroundings: what else may decide how targets are analysed: module file, flags.
    """
    own_parts: dict[str, list[bytes]] = {}
    edges: dict[str, set[str]] = {}
    rules: list[tuple[str, Any, str]] = []
    hidden_kinds: set[str] = set()
    for result in messages.cquery_result(data).results:
        target = result.target
        checksum = result.configuration.checksum
        if target.type == messages.RULE:
            rule = target.rule
            label = rule.name
            edges.setdefault(label, set()).update(rule.rule_input)
            if rule.rule_class in _HIDDEN_KINDS:
                hidden_kinds.add(label)
            if rule.rule_class.endswith("_test") and label.startswith("//"):
                rules.append((label, rule, checksum))
            _remove(rule, _PLACES)
            own_parts.setdefault(label, []).append(checksum.encode() + rule.SerializeToString(deterministic=True))
        elif target.type == messages.SOURCE_FILE:
            own_parts.setdefault(target.source_file.name, []).append(b"source")
        elif target.type == messages.GENERATED_FILE:
            file = target.generated_file
            edges.setdefault(file.name, set()).add(file.generating_rule)
            own_parts.setdefault(file.name, []).append(b"generated")
    own = {label: _hash(b"\0".join(sorted(parts))) for label, parts in own_parts.items()}
    sorted_edges = {label: tuple(sorted(named - {label})) for label, named in edges.items()}
    known_toolchains = tuple(known_toolchains)
    hidden = _hidden(own, sorted_edges, [label for label, _, _ in rules], {*known_toolchains, *hidden_kinds})
    below = closures(own, sorted_edges, hidden)
    toolchain = _hash(" ".join(f"{label} {below[label]}" for label in hidden).encode())
    structures = closures(own, sorted_edges, [label for label, _, _ in rules])
    tests = {}
    for label, rule, checksum in rules:
        attributes = {attribute.name: attribute for attribute in rule.attribute}
        tags = tuple(attributes["tags"].string_list_value) if "tags" in attributes else ()
        if "manual" not in tags:
            pool = _pool(attributes.get("exec_properties"))
            _remove(rule, ("tags",))
            named = " ".join(structures.get(other, other) for other in sorted_edges[label])
            untagged = f"{checksum} {named} {toolchain} ".encode() + rule.SerializeToString(deterministic=True)
            tests[label] = TestTarget(
                structure=_hash(f"{structures[label]} {toolchain} {surroundings}".encode()),
                tags=tags,
                pool=pool,
                untagged=_hash(untagged),
            )
    return TargetGraph(own, sorted_edges, tests, known_toolchains, hidden, _hash(surroundings.encode()))


def users(edges: Mapping[str, Iterable[str]], packages: Iterable[str]) -> set[str]:
    """The labels that reach a target of some packages (`//trainers/data`)."""
    wanted = set(packages)
    users_of: dict[str, list[str]] = {}
    for label, named in edges.items():
        for other in named:
            users_of.setdefault(other, []).append(label)
    found = {label for label in {*edges, *users_of} if label.rpartition(":")[0] in wanted}
    stack = list(found)
    while stack:
        new = [user for user in users_of.get(stack.pop(), ()) if user not in found]
        found.update(new)
        stack += new
    return found


def closures(own: dict[str, str], edges: dict[str, tuple[str, ...]], roots: Iterable[str]) -> dict[str, str]:
    """A hash over each root's own hash and the hashes of all that it reaches; of what they reach likewise."""
    done: dict[str, str] = {}
    for root in roots:
        stack = [(root, False)]
        while stack:
            label, ready = stack.pop()
            if ready:
                below = "".join(done.get(named, named) for named in edges.get(label, ()))
                done[label] = _hash(f"{label} {own.get(label, '')} {below}".encode())
            elif label not in done:
                stack.append((label, True))
                stack += [(named, False) for named in edges.get(label, ()) if named not in done]
    return done


def _hidden(
    own: dict[str, str], edges: dict[str, tuple[str, ...]], tests: list[str], known: set[str]
) -> tuple[str, ...]:
    """The toolchains, and whatever tests reach by edges that no attribute shows."""
    reached: set[str] = set()
    stack = list(tests)
    while stack:
        label = stack.pop()
        if label not in reached:
            reached.add(label)
            stack += edges.get(label, ())
    return tuple(sorted({*known, *(label for label in own if label not in reached)}))


def _remove(rule: Any, names: tuple[str, ...]) -> None:
    for i in reversed(range(len(rule.attribute))):
        if rule.attribute[i].name in names:
            del rule.attribute[i]


def _pool(exec_properties: Any) -> str:
    values = {pair.key: pair.value for pair in exec_properties.string_dict_value} if exec_properties else {}
    return next((values[key] for key in _POOL_KEYS if key in values), "")


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
