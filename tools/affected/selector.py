"""Selects the tests that a change affects: those whose actions Bazel would have to run again.

Per configuration: where nothing that decides the shape of a test's actions differs between base and head (its
structure, `target_graph`), its actions are those of base, and it is affected if a file that they read differs. Where
something does, Bazel is asked for the actions themselves, and these are compared (`compare`).
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import subprocess
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tools.affected import compare, explain, snapshot, target_graph
from tools.affected.action_graph import ActionGraph
from tools.affected.digests import (
    EXTERNAL_FOLDER,
    MISSING,
    TreeDigests,
    external_digests,
    is_workspace_file,
    links_into,
    product_digest,
    touched,
)
from tools.affected.explain import Evidence, Explanation
from tools.affected.git_trees import LINK, Repo
from tools.affected.private_bazel import BazelError, PrivateBazel
from tools.affected.selection import Affected, SelectError, Selection, Side, Test
from tools.affected.snapshot import STAMP, Snapshot
from tools.affected.target_graph import TargetGraph, TestTarget

# So many tests are asked about at once; of more, a smaller answer says first which are affected anyway.
_FEW = 20
# Modes of files that are no links or submodules.
_REGULAR = ("100644", "100755")
# Bazel runs tests with this tag each time: what they test is outside of what it sees.
_ALWAYS = "external"


@dataclasses.dataclass(frozen=True)
class Options:
    """How to select.

    Attributes:
      bazel: arguments that start Bazel.
      configurations: name to Bazel flags, in order; a test belongs to the first in which it is compatible.
      flags: further Bazel options of every question.
      cache: folder of snapshots and private checkouts.
      main_branch: where the default base is looked for; None takes the usual names.
      build: builds what programs make for tests, on both sides, where only that may differ: a tool that changed may
        write what it wrote before. Takes as long as these programs run.
      strict: a base that says nothing is an error, not a reason to take every test.
      exhaustive: compares all actions, and so checks that shortcuts lose nothing.
    """

    bazel: tuple[str, ...]
    configurations: Mapping[str, tuple[str, ...]]
    cache: Path
    flags: tuple[str, ...] = ()
    main_branch: str | None = None
    build: bool = False
    strict: bool = False
    exhaustive: bool = False


@dataclasses.dataclass
class _Verdicts:
    """What is known so far, by label."""

    affected: dict[str, Affected] = dataclasses.field(default_factory=dict)
    unaffected: dict[str, Test] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class _Compared:
    """What was compared in one configuration.

    Attributes:
      base: what is known of base.
      head: targets of head; None where they are those of base.
      differing: files behind base's actions whose content differs.
    """

    base: Snapshot
    head: TargetGraph | None
    differing: set[str]


class _Blind(Exception):
    """Base says nothing; the message is why."""


def select(
    root: Path, base: str | None, head: str | None, options: Options, say: Callable[[str], None] = lambda _: None
) -> Selection:
    """The tests that the change from `base` to `head` affects; see `Selector`."""
    with selecting(root, base, head, options, say) as selector:
        return selector.selection()


@contextlib.contextmanager
def selecting(
    root: Path, base: str | None, head: str | None, options: Options, say: Callable[[str], None] = lambda _: None
) -> Iterator[Selector]:
    """A selector on two states of a workspace; no other works there meanwhile.

    Args:
      root: folder of the workspace.
      base: a revision; None is the last commit that HEAD shares with the main branch.
      head: a revision; None is the working tree.
      options: how.
      say: told what takes time.

    Raises:
      SelectError: a revision is unknown.
    """
    home = options.cache / "workspaces" / hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:12]
    repo = Repo(root, home)
    with _locked(home / "lock", say):
        base_tree = repo.tree(base or repo.merge_base(options.main_branch))
        head_tree = repo.tree(head) if head else repo.working_tree()
        sides = (Side(base or "merge base", base_tree, True), Side(head or "working tree", head_tree, False))
        yield Selector(repo, home / "tree", sides, options, say)


class Selector:
    """Compares two states of a workspace."""

    def __init__(
        self, repo: Repo, folder: Path, sides: tuple[Side, Side], options: Options, say: Callable[[str], None]
    ) -> None:
        self._repo = repo
        self._folder = folder
        self._names = (sides[0].name, sides[1].name)
        self._base = sides[0].tree
        self._head = sides[1].tree
        self._options = options
        self._say = say
        self._changed = repo.changed(self._base, self._head) if self._base != self._head else {}
        # A server for each configuration: one that goes from one to another forgets all that it analysed.
        self._servers = {
            name: PrivateBazel(options.bazel, folder, options.flags, server)
            for server, name in enumerate(options.configurations)
        }
        self._bazel = next(iter(self._servers.values()))
        self._base_cached = True
        self._checked_out: str | None = None
        self._digests: dict[str, TreeDigests] = {}
        self._compared: dict[str, _Compared] = {}
        self._selection: Selection | None = None

    def selection(self) -> Selection:
        """The answer.

        Raises:
          SelectError: head does not load, or (`strict`) base says nothing.
        """
        if self._selection is None:
            self._selection = self._select()
        return self._selection

    def explain(self, label: str) -> Explanation:
        """Why a label is affected, or not.

        Raises:
          SelectError: as `selection`.
        """
        selection = self.selection()
        affected = next((a for a in selection.affected if a.test.label == label), None)
        if affected is None:
            return self._explain_absence(selection, label)
        because = {
            "new": "base has no such test in this configuration",
            "content": "its actions are those of base, but files that they read differ:",
            "action": "what Bazel would execute for it differs:",
            "always": "Bazel never takes its result from a cache:",
            "everything": f"every test is taken: {selection.everything}",
        }[affected.why]
        path: tuple[str, ...] = ()
        changed_declaration = ""
        sentences = [because, *affected.changes]
        evidence = self._evidence(affected.test.configuration)
        if evidence is not None and affected.why != "always":
            path = explain.path_from_change(evidence, label)
            if path:
                changed_declaration = self._difference(path[0])
            elif evidence.surroundings:
                sentences.append("files that decide about all targets differ (.bazelrc, MODULE.bazel, .bazelversion)")
            hidden = sorted(evidence.hidden & evidence.changed().keys())
            if hidden and not path:
                sentences.append(f"toolchains that every test may use differ: {', '.join(hidden)}")
        return Explanation(label, "affected", tuple(sentences), path, changed_declaration)

    def distances(self) -> dict[str, int]:
        """Steps in the target graph from the nearest change to each affected test; see `explain.distances`."""
        found = {}
        affected = self.selection().affected
        for name in self._compared:
            evidence = self._evidence(name)
            if evidence is not None:
                labels = [a.test.label for a in affected if a.test.configuration == name]
                found.update(explain.distances(evidence, labels))
        return found

    def _explain_absence(self, selection: Selection, label: str) -> Explanation:
        test = next((t for t in selection.unaffected if t.label == label), None)
        if test is not None:
            sentences = [
                f"{len(self._changed)} files differ; its actions read none of them and are otherwise those of base"
            ]
            if test.configuration in self._compared:
                compared = self._compared[test.configuration]
                head = compared.head
                if head is not None and compared.base.tests[label].structure != head.tests[label].structure:
                    sentences.append("declarations that it reaches differ, but not what is executed")
                evidence = self._evidence(test.configuration)
                path = explain.path_from_change(evidence, label) if evidence else ()
                return Explanation(
                    label, "unaffected", tuple(sentences), path, self._difference(path[0]) if path else ""
                )
            return Explanation(label, "unaffected", tuple(sentences))
        if label in selection.deleted:
            return Explanation(label, "deleted", ("base has it, head does not",))
        if label in selection.elsewhere:
            names = ", ".join(self._options.configurations)
            return Explanation(
                label, "elsewhere", (f"it is compatible with none of the configurations asked for: {names}",)
            )
        declared = self._declaration(self._head, label)
        if not declared:
            return Explanation(label, "unknown", ("head has no such target: see bazel query 'tests(//...)'",))
        if '"manual"' in declared:
            return Explanation(label, "manual", ("it is tagged manual: it runs only when it is named",))
        return Explanation(label, "unknown", ("it is not a test that //... takes",))

    def _evidence(self, configuration: str) -> Evidence | None:
        if configuration not in self._compared:
            return None
        compared = self._compared[configuration]
        base = compared.base.targets()
        head = compared.head or base
        return Evidence(
            own=head.own,
            edges=head.edges,
            base_own=base.own,
            hidden=frozenset(head.hidden),
            differing=frozenset(compared.differing),
            surroundings=base.surroundings != head.surroundings,
        )

    def _difference(self, label: str) -> str:
        return explain.difference(self._declaration(self._base, label), self._declaration(self._head, label))

    def _declaration(self, tree: str, label: str) -> str:
        self._check_out(tree)
        try:
            return self._bazel.query(f'"{label}"', "--output=build").decode()
        except BazelError:
            return ""

    def _select(self) -> Selection:
        everything = None
        verdicts = _Verdicts()
        deleted: list[str] = []
        elsewhere: list[str] = []
        try:
            bases = self._base_snapshots()
        except _Blind as blind:
            if self._options.strict:
                raise SelectError(f"base ({self._names[0]}): {blind}") from blind
            everything = str(blind)
            elsewhere = self._take_everything(verdicts)
        else:
            deleted, elsewhere = self._compare(bases, verdicts)
        return Selection(
            base=Side(self._names[0], self._base, self._base_cached and everything is None),
            head=Side(self._names[1], self._head, self._head == self._base and self._base_cached),
            affected=tuple(affected for _, affected in sorted(verdicts.affected.items())),
            unaffected=tuple(test for _, test in sorted(verdicts.unaffected.items())),
            deleted=tuple(deleted),
            elsewhere=tuple(elsewhere),
            everything=everything,
        )

    def _base_snapshots(self) -> dict[str, Snapshot]:
        version = self._repo.content(self._base, ".bazelversion")
        if ".bazelversion" in self._changed:
            other = self._repo.content(self._head, ".bazelversion")
            if (version or "").strip() != (other or "").strip():
                names = [(text or "any").strip() for text in (version, other)]
                raise _Blind(f"it is built with Bazel {names[0]}, head with {names[1]}")
        version = version or _version_of(self._options.bazel)
        found: dict[str, Snapshot] = {}
        remaining: list[str] | None = None
        flags_so_far: list[str] = []
        for name, flags in self._options.configurations.items():
            flags_so_far.append(" ".join(flags))
            key = snapshot.key(self._base, version, [*self._options.flags, *flags_so_far])
            file = self._options.cache / "snapshots" / f"{key}.zip"
            taken = snapshot.load(file)
            if taken is None:
                self._base_cached = False
                self._say(f"asking Bazel about base ({self._base[:12]}, {name}); the answer is kept")
                links = any(entry.mode == LINK for entry in self._repo.files(self._base).values())
                try:
                    self._check_out(self._base)
                    taken = snapshot.take(self._servers[name], flags, remaining, links, file)
                except BazelError as error:
                    raise _Blind(f"Bazel cannot analyse it ({name}): {_first_error(error)}") from error
            found[name] = taken
            if remaining is None:
                remaining = sorted(taken.tests)
            remaining = [label for label in remaining if label not in taken.compatible]
        return found

    def _compare(self, bases: dict[str, Snapshot], verdicts: _Verdicts) -> tuple[list[str], list[str]]:
        """Judges every test of head; returns those that only base has, and those that no configuration can run."""
        if all(self._keeps_targets(base) for base in bases.values()) and self._compare_contents(bases, verdicts):
            first = next(iter(bases.values()))
            return [], sorted(first.tests.keys() - verdicts.affected.keys() - verdicts.unaffected.keys())
        remaining: list[str] | None = None
        everyone: set[str] = set()
        try:
            self._check_out(self._head)
            for name, flags in self._options.configurations.items():
                if remaining is None or remaining:
                    remaining = self._compare_in(name, flags, bases[name], remaining, verdicts)
                    everyone = everyone or {*remaining, *verdicts.affected, *verdicts.unaffected}
        except BazelError as error:
            raise SelectError(f"Bazel cannot analyse head: {error}") from error
        gone = set().union(*(base.compatible for base in bases.values())) - everyone
        if gone:
            try:
                gone -= set(self._bazel.query("tests(//...)").decode().split())  # (still there, but manual now)
            except BazelError as error:
                raise SelectError(f"Bazel cannot load head: {error}") from error
        return sorted(gone), remaining or []

    def _keeps_targets(self, base: Snapshot) -> bool:
        """Whether head differs only in the content of files that Bazel does not read before it runs an action.

        Then it has the targets and actions of base, and Bazel need not be asked.
        """
        if self._options.exhaustive:
            return False
        files_stay = all(
            old is not None and new is not None and old.mode in _REGULAR and new.mode in _REGULAR
            for old, new in self._changed.values()
        )
        return files_stay and (not self._changed or (base.read is not None and base.read.isdisjoint(self._changed)))

    def _compare_contents(self, bases: Mapping[str, Snapshot], verdicts: _Verdicts) -> bool:
        """Judges every test by the files that base's actions read; False if something must be built to judge."""
        read_in = {}
        for name, base in bases.items():
            differing = self._differing_files(base)
            # (a folder of an external repository has no digest: see `external_digests`)
            linked = {path: file for path, file in base.linked.items() if base.external[path] != EXTERNAL_FOLDER}
            beyond = touched(linked.values(), self._changed)
            differing |= {path for path, file in linked.items() if file in beyond}
            self._compared[name] = _Compared(base, None, differing)
            read_in[name] = self._readers(base, differing)
            if self._options.build and read_in[name] != self._readers(base, differing, through_programs=False):
                return False
        for name, base in bases.items():
            for label in base.compatible:
                changes = self._readable(read_in[name].get(label, ()), base)
                self._judge_content(label, base.tests[label], name, changes, verdicts)
        return True

    @staticmethod
    def _readers(base: Snapshot, differing: set[str], *, through_programs: bool = True) -> dict[str, tuple[str, ...]]:
        """Base's tests that read one of some files, and which of them."""
        return (
            compare.content_changes(base.actions(), differing, through_programs=through_programs) if differing else {}
        )

    def _compare_in(
        self,
        name: str,
        flags: Sequence[str],
        base: Snapshot,
        only: list[str] | None,
        verdicts: _Verdicts,
    ) -> list[str]:
        """Judges the tests that run in one configuration; returns the labels of those that do not."""
        targets = snapshot.read_targets(self._servers[name], flags, only, base.toolchains)
        alike = {
            label
            for label, test in targets.tests.items()
            if label in base.tests and base.tests[label].structure == test.structure and not self._options.exhaustive
        }
        judged = set()
        if self._packages_that_differ:
            alike -= target_graph.users(targets.edges, self._packages_that_differ)
        differing = self._differing_sources(self._servers[name], base)
        self._compared[name] = _Compared(base, targets, differing)
        actions = base.actions() if differing else ActionGraph([], [], {})
        read = compare.content_changes(actions, differing)
        self._check_sources(actions, differing, alike)  # (the actions of the others may read other files now)
        if self._options.build:
            alike -= read.keys() - compare.content_changes(actions, differing, through_programs=False).keys()
        for label in alike & base.compatible:
            judged.add(label)
            changes = self._readable(read.get(label, ()), base)
            self._judge_content(label, targets.tests[label], name, changes, verdicts)
        unlike = sorted(targets.tests.keys() - alike)
        judged |= self._compare_actions(name, flags, base, unlike, targets, verdicts)
        return sorted(targets.tests.keys() - judged)

    @functools.cached_property
    def _packages_that_differ(self) -> set[str]:
        """Packages whose `package()` differs: its features enter actions without showing in any attribute."""
        found = set()
        for path in self._changed:
            folder, _, name = path.rpartition("/")
            if name in ("BUILD", "BUILD.bazel"):
                old, new = (_package_call(self._repo.content(t, path) or "") for t in (self._base, self._head))
                if old != new:
                    found.add(f"//{folder}")
        return found

    def _differing_sources(self, bazel: PrivateBazel, base: Snapshot) -> set[str]:
        """Files behind base's actions whose content differs in head, which is checked out and loaded."""
        now = external_digests(base.external, bazel.output_base)
        outside = {path for path, digest in base.external.items() if now[path] != digest}
        return self._differing_files(base) | outside

    def _differing_files(self, base: Snapshot) -> set[str]:
        """Files of the workspace behind base's actions whose content differs in head."""
        inside = [path for path in base.sources if is_workspace_file(path)]
        if base.links or any(entry and entry.mode == LINK for pair in self._changed.values() for entry in pair):
            return {path for path in inside if self._digest(self._base)(path) != self._digest(self._head)(path)}
        return touched(inside, self._changed)

    def _check_sources(self, graph: ActionGraph, among: set[str], labels: Collection[str]) -> None:
        """Bazel analyses a target whose source file is not there, and fails when it builds it.

        Raises:
          SelectError: a test of head reads such a file.
        """
        gone = {path for path in among if is_workspace_file(path) and self._digest(self._head)(path) == MISSING}
        for label, paths in compare.content_changes(graph, gone).items():
            if label in labels:
                raise SelectError(
                    f"{label} cannot be built in head: {paths[0]}, which it reads, does not exist; add the file (is it "
                    "ignored by git?), or take it out of the BUILD file that names it"
                )

    def _compare_actions(
        self,
        name: str,
        flags: Sequence[str],
        base: Snapshot,
        labels: list[str],
        head: TargetGraph,
        verdicts: _Verdicts,
    ) -> set[str]:
        """Judges tests by their actions; returns those that have any (the others are incompatible)."""
        targets = head.tests
        known = [label for label in labels if label in base.compatible]
        old_digest = _digest_of(self._digest(self._base), base.external, base.surroundings)
        old_side = compare.Side(base.actions(), old_digest) if known else None
        seen: set[str] = set()
        if old_side is not None and len(known) > _FEW and not self._options.exhaustive:
            seen = self._compare_at_sight(name, flags, old_side, known, head, verdicts)
            labels = [label for label in labels if label not in seen]
        graph = snapshot.ask_actions(self._servers[name], flags, labels)
        new_side = compare.Side(graph, self._head_digest(name, graph, head))
        if self._options.build and old_side is not None:
            known = [label for label in known if label in graph.tests]
            old_side, new_side = self._with_products(self._servers[name], flags, known, old_side, new_side)
        layouts = []
        for label in graph.tests:
            test = _test(label, targets[label], name)
            if old_side is None or label not in base.compatible:
                verdicts.affected[label] = Affected(test, "new")
            elif not self._same_actions(label, old_side, new_side, base.tests[label], targets[label]):
                verdicts.affected[label] = Affected(
                    test,
                    "action",
                    self._readable(compare.changes(old_side, new_side, label), base, self._servers[name]),
                )
            elif not compare.same(old_side, new_side, label, layout=True):
                layouts.append(label)
            else:
                self._judge_same(label, targets[label], name, verdicts)
        if layouts and old_side is not None:
            self._compare_layouts(name, flags, layouts, old_side, new_side, targets, verdicts)
        return seen | graph.tests.keys()

    def _compare_at_sight(
        self,
        name: str,
        flags: Sequence[str],
        old: compare.Side,
        labels: list[str],
        head: TargetGraph,
        verdicts: _Verdicts,
    ) -> set[str]:
        """Judges those tests of which a small answer shows that they are affected; returns them."""
        graph = snapshot.ask_inputs(self._servers[name], flags, labels)
        digest = self._head_digest(name, graph, head)
        for label in labels:
            changes = compare.differs_at_sight(old, graph, digest, label) if label in graph.tests else ()
            if changes:
                test = _test(label, head.tests[label], name)
                readable = self._readable(changes, self._compared[name].base, self._servers[name])
                verdicts.affected[label] = Affected(test, "action", readable)
        return set(labels) & verdicts.affected.keys()

    def _head_digest(self, name: str, graph: ActionGraph, head: TargetGraph) -> compare.Digest:
        """Source of an action graph of head to its digest.

        Raises:
          SelectError: one is not there.
        """
        self._check_sources(graph, set(graph.sources), graph.tests)
        external = external_digests(graph.sources, self._servers[name].output_base)
        return _digest_of(self._digest(self._head), external, head.surroundings)

    def _same_actions(
        self, label: str, old: compare.Side, new: compare.Side, before: TestTarget, after: TestTarget
    ) -> bool:
        if not compare.same(old, new, label, layout=False):
            return False
        if compare.keys(old.graph, label) == compare.keys(new.graph, label):
            return True
        # Bazel's local cache keys a test by all its tags; those that say how to execute it are among its facts.
        return before.untagged == after.untagged and before.tags != after.tags

    def _compare_layouts(
        self,
        name: str,
        flags: Sequence[str],
        labels: list[str],
        old: compare.Side,
        new: compare.Side,
        targets: Mapping[str, TestTarget],
        verdicts: _Verdicts,
    ) -> None:
        """Judges tests of which only the order of runfiles differs so far, by what their manifests say."""
        self._say("comparing the runfiles of tests whose dependencies changed their order")
        after = snapshot.ask_layouts(self._servers[name], flags, labels)
        self._check_out(self._base)
        before = snapshot.ask_layouts(self._servers[name], flags, labels)
        self._check_out(self._head)
        old, new = old.with_layouts(before), new.with_layouts(after)
        for label in labels:
            if compare.same(old, new, label, layout=True):
                self._judge_same(label, targets[label], name, verdicts)
            else:
                test = _test(label, targets[label], name)
                verdicts.affected[label] = Affected(test, "action", ("places of its runfiles",))

    def _with_products(
        self, bazel: PrivateBazel, flags: Sequence[str], labels: Sequence[str], old: compare.Side, new: compare.Side
    ) -> tuple[compare.Side, compare.Side]:
        """The sides with what programs make for tests on both, where what these programs read differs."""
        made = compare.differing_products(old, new, labels)
        if not made:
            return old, new
        self._say(f"building what {len(made)} programs make for tests, for head and for base")
        outputs = [output for outputs in made.values() for output in outputs]
        products = []
        for tree in (self._base, self._head):
            self._check_out(tree)
            try:
                bazel.build(sorted(made), flags)
            except BazelError as error:
                self._say(f"not all of it can be built, so the tests are taken: {_first_error(error)}")
                self._check_out(self._head)
                return old, new
            products.append({path: product_digest(bazel.output(path)) or f"not built in {tree}" for path in outputs})
        return old.with_products(products[0]), new.with_products(products[1])

    def _take_everything(self, verdicts: _Verdicts) -> list[str]:
        """Takes every test of head; returns those that no configuration can run."""
        remaining: list[str] | None = None
        try:
            self._check_out(self._head)
            for name, flags in self._options.configurations.items():
                if remaining is None or remaining:
                    targets = snapshot.read_targets(self._servers[name], flags, remaining, ())
                    graph = snapshot.ask_actions(self._servers[name], flags, sorted(targets.tests))
                    self._check_sources(graph, set(graph.sources), graph.tests)
                    for label in graph.tests:
                        test = _test(label, targets.tests[label], name)
                        verdicts.affected[label] = Affected(test, "everything")
                    remaining = sorted(targets.tests.keys() - graph.tests.keys())
        except BazelError as error:
            raise SelectError(f"Bazel cannot analyse head: {error}") from error
        return remaining or []

    def _judge_content(
        self, label: str, target: TestTarget, name: str, changes: tuple[str, ...], verdicts: _Verdicts
    ) -> None:
        if changes:
            verdicts.affected[label] = Affected(_test(label, target, name), "content", changes)
        else:
            self._judge_same(label, target, name, verdicts)

    def _judge_same(self, label: str, target: TestTarget, name: str, verdicts: _Verdicts) -> None:
        test = _test(label, target, name)
        if _ALWAYS in target.tags:
            verdicts.affected[label] = Affected(test, "always", (f"tag {_ALWAYS}",))
        else:
            verdicts.unaffected[label] = test

    def _readable(self, changes: Iterable[str], base: Snapshot, bazel: PrivateBazel | None = None) -> tuple[str, ...]:
        """The same, with files of external repositories that are links into the workspace named as there."""
        told = []
        for change in changes:
            sign, path = (change[:2], change[2:]) if change.startswith(("+ ", "- ")) else ("", change)
            if path in base.linked:
                path = base.linked[path]
            elif bazel is not None and path.startswith("external/"):
                path = links_into([path], bazel.output_base, self._folder).get(path, path)
            told.append(sign + path)
        return tuple(told)

    def _digest(self, tree: str) -> TreeDigests:
        if tree not in self._digests:
            self._digests[tree] = TreeDigests(self._repo, tree)
        return self._digests[tree]

    def _check_out(self, tree: str) -> None:
        if self._checked_out != tree:
            self._repo.check_out(tree, self._folder)
            names = "\n".join(self._repo.files(tree))
            for server in self._servers.values():
                server.names = hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()[:16]
            self._checked_out = tree


def _test(label: str, target: TestTarget, configuration: str) -> Test:
    return Test(label, target.tags, configuration, target.pool)


def _digest_of(inside: compare.Digest, external: Mapping[str, str], surroundings: str) -> compare.Digest:
    def digest(path: str) -> str:
        if path in external:
            return external[path]
        if is_workspace_file(path):
            return inside(path)
        # The stamp of a build says what flags tell it (--embed_label, --workspace_status_command).
        return surroundings if path == STAMP else "generated"

    return digest


def _package_call(build_file: str) -> str:
    """What `package()` says in a BUILD file; the file itself where it cannot be told."""
    try:
        statements = ast.parse(build_file).body
    except SyntaxError:
        return build_file
    calls = [s.value for s in statements if isinstance(s, ast.Expr) and isinstance(s.value, ast.Call)]
    return " ".join(ast.dump(c) for c in calls if isinstance(c.func, ast.Name) and c.func.id == "package")


def _first_error(error: BazelError) -> str:
    lines = str(error).splitlines()
    return next((line for line in lines if line.startswith("ERROR")), lines[0] if lines else "no message")


def _version_of(command: Sequence[str]) -> str:
    result = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    return result.stdout.strip()


@contextlib.contextmanager
def _locked(file: Path, say: Callable[[str], None]) -> Iterator[None]:
    with file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another selection in this workspace")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
