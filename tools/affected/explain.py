"""Why a test is affected, or not: the way from what changed to the test, in targets."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping

_LABEL = re.compile(r"(?P<repo>@?@?[^/]*)//(?P<package>[^:]*):(?P<name>.+)")


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What two states say about the targets in one configuration.

    Attributes:
      own: label to the hash of the target itself, in head.
      edges: label to what it names, in head.
      base_own: `own` in base.
      hidden: labels of head that every test may depend on without naming them (toolchains).
      differing: source files whose content differs.
      surroundings: whether files that decide about all targets (.bazelrc, MODULE.bazel) differ.
    """

    own: Mapping[str, str]
    edges: Mapping[str, tuple[str, ...]]
    base_own: Mapping[str, str]
    hidden: frozenset[str]
    differing: frozenset[str]
    surroundings: bool

    def changed(self) -> dict[str, str]:
        """The labels that differ themselves, and how: `new`, `declaration` or `content`."""
        found = {
            label: "declaration" if label in self.base_own else "new"
            for label, digest in self.own.items()
            if self.base_own.get(label) != digest
        }
        by_name: dict[str, list[str]] = {}
        for path in self.differing:
            by_name.setdefault(path.rpartition("/")[2], []).append(path)
        for label in self.own:
            for path in by_name.get(label.rpartition(":")[2].rpartition("/")[2], ()):
                if is_label_of(label, path):
                    found[label] = "content"
        return found


@dataclasses.dataclass(frozen=True)
class Explanation:
    """The answer about one label.

    Attributes:
      label: the test.
      verdict: `affected`, `unaffected`, `deleted`, `elsewhere`, `manual`, or `unknown`.
      because: sentences, most telling first.
      path: labels from what changed to the test; () where no path of targets shows it.
      difference: how the declaration of the path's first target changed, as a unified diff.
    """

    label: str
    verdict: str
    because: tuple[str, ...]
    path: tuple[str, ...] = ()
    difference: str = ""


def is_label_of(label: str, path: str) -> bool:
    """Whether a label names the source file at a path relative to the execution root."""
    match = _LABEL.fullmatch(label)
    if match is None:
        return False
    inside = "/".join(part for part in (match["package"], match["name"]) if part)
    repo = match["repo"].lstrip("@")
    if not repo:
        return path == inside
    # Labels carry the name that the main repository uses; a path has the canonical one, which ends with it.
    place = re.fullmatch(r"external/([^/]+)/(.+)", path)
    return place is not None and place[2] == inside and re.search(rf"(^|[~+]){re.escape(repo)}$", place[1]) is not None


def path_from_change(evidence: Evidence, label: str) -> tuple[str, ...]:
    """The shortest way from something that changed to `label`; () where there is none."""
    changed = evidence.changed()
    came_from: dict[str, str | None] = {label: None}
    layer = [label]
    while layer:
        for place in layer:
            if place in changed:
                path = []
                step: str | None = place
                while step is not None:
                    path.append(step)
                    step = came_from[step]
                return tuple(path)
        following = []
        for place in layer:
            for named in evidence.edges.get(place, ()):
                if named not in came_from:
                    came_from[named] = place
                    following.append(named)
        layer = following
    return ()


def distances(evidence: Evidence, labels: Iterable[str]) -> dict[str, int]:
    """Steps in the target graph from the nearest change to each label.

    A label that changed itself has 0, a test of a library that changed 1; labels that no path reaches are left out:
    what changed for them (a flag, a toolchain) has no place in the graph.
    """
    users: dict[str, list[str]] = {}
    for label, named in evidence.edges.items():
        for other in named:
            users.setdefault(other, []).append(label)
    found = dict.fromkeys(evidence.changed(), 0)
    layer = list(found)
    steps = 0
    while layer:
        steps += 1
        layer = [user for label in layer for user in users.get(label, ())]
        layer = [user for user in dict.fromkeys(layer) if user not in found]
        found.update(dict.fromkeys(layer, steps))
    return {label: found[label] for label in labels if label in found}


def difference(before: str, after: str) -> str:
    """A unified diff of two declarations as `query --output=build` prints them, without where they stand."""
    old, new = (
        [line for line in text.splitlines() if not line.startswith("#") and line.strip()] for text in (before, after)
    )
    lines = list(difflib.unified_diff(old, new, "base", "head", lineterm="", n=1))
    return "\n".join(lines)
