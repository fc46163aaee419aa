"""Asks the selector, then lets Bazel say which tests it really runs again, and compares."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Literal

from tools.affected.truth import workspace
from tools.affected.truth.edits import InapplicableError, Workspace
from tools.affected.truth.kinds import Expected, Kind

_OPTIONS = (
    "--build_tests_only",
    "--color=no",
    "--curses=no",
    "--experimental_convenience_symlinks=ignore",
    "--noshow_progress",
    "--remote_download_outputs=all",
    "--spawn_strategy=local",
    "--test_output=errors",
)
_TESTS_FAILED = 3
_DRAWS = 100


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a selector says.

    Attributes:
      affected: test to its configuration.
      unaffected: the same of the others.
      deleted: tests that only base has.
      everything: it took every test because it could not tell.
      error: it gave no answer, and this is why.
    """

    affected: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unaffected: Mapping[str, str] = dataclasses.field(default_factory=dict)
    deleted: frozenset[str] = frozenset()
    everything: bool = False
    error: str = ""

    def among(self, tests: Collection[str]) -> Answer:
        """What it says about some of the tests."""
        return dataclasses.replace(
            self,
            affected={test: home for test, home in self.affected.items() if test in tests},
            unaffected={test: home for test, home in self.unaffected.items() if test in tests},
            deleted=frozenset(test for test in self.deleted if test in tests),
        )


Selector = Callable[[Path, str], Answer]
"""Given the workspace and a base revision, says what the working tree affects."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run of all tests in one configuration did.

    Attributes:
      executed: tests that Bazel did not have in its local action cache.
      spawned: those of them that ran, because a disk cache did not have them either.
      cached: the other tests.
      failed: tests that did not pass.
      places: where the results of each test lie.
      error: Bazel could not load or build; nothing else is known then.
    """

    executed: frozenset[str] = frozenset()
    spawned: frozenset[str] = frozenset()
    cached: frozenset[str] = frozenset()
    failed: frozenset[str] = frozenset()
    places: Mapping[str, frozenset[str]] = dataclasses.field(default_factory=dict)
    error: str = ""

    @property
    def tests(self) -> frozenset[str]:
        """All tests that are compatible with the configuration."""
        return self.executed | self.cached

    def since(self, before: Run) -> Run:
        """The same run, were `before` the only one that the caches know.

        Bazel keeps the last result at each place. Where `before` has none, it is one of an earlier case.
        """
        elsewhere = {test for test in self.tests if self.places[test] != before.places.get(test)}
        return dataclasses.replace(
            self,
            executed=self.executed | elsewhere,
            spawned=self.spawned | elsewhere,
            cached=self.cached - elsewhere,
        )


@dataclasses.dataclass(frozen=True)
class Case:
    """A change to try. Its name and the seed make it again.

    Attributes:
      name: such as `wheel bumped#2` or `pair#17`.
      kinds: of the edits; empty if they are to be drawn.
    """

    name: str
    kinds: tuple[Kind, ...] = ()


@dataclasses.dataclass(frozen=True)
class Result:
    """How a case ended.

    Attributes:
      case: its name.
      kinds: of its edits.
      diff: what was edited, as git says it.
      truth: tests that have to run, as `configuration label`; None if Bazel ends with an error.
      answer: tests that the selector names; None if it ended with an error.
      other: further faults of the answer.
      table: where Bazel does not do what the table of expected answers says; no fault of the selector.
    """

    case: str
    kinds: tuple[Kind, ...]
    diff: str
    truth: frozenset[str] | None
    answer: frozenset[str] | None
    other: tuple[str, ...] = ()
    table: str = ""

    @property
    def missing(self) -> frozenset[str]:
        """Tests that the selector should name and does not."""
        return (self.truth or frozenset()) - (self.answer or frozenset())

    @property
    def extra(self) -> frozenset[str]:
        """Tests that it names in vain."""
        return (self.answer or frozenset()) - (self.truth or frozenset())

    @property
    def faults(self) -> tuple[str, ...]:
        """All that is wrong with the answer; empty if it is right."""
        return (
            *[f"missing: {test}" for test in sorted(self.missing)],
            *[f"extra: {test}" for test in sorted(self.extra)],
            *self.other,
        )


class Harness:
    """A workspace with a Bazel server per configuration.

    Args:
      bazel: the Bazel to run, as the beginning of a command line.
      folder: a folder to work in; the workspace is its `workspace`.
      configurations: name to Bazel flags.
      kinds: of change, to draw pairs from.
      targets: patterns and flags that say which tests to look at.
      question: to Bazel, that tells who depends on a file. `query` takes all branches of a `select`; `cquery` takes
        those of the configuration, but crashed Bazel 7.7.1 (NullPointerException) where tests were filtered by tags.
    """

    def __init__(
        self,
        bazel: Sequence[str],
        folder: Path,
        configurations: Mapping[str, tuple[str, ...]],
        kinds: Iterable[Kind],
        targets: Sequence[str] = ("//...",),
        question: Literal["cquery", "query"] = "cquery",
    ) -> None:
        self._bazel = tuple(bazel)
        self._folder = folder
        self._configurations = dict(configurations)
        self._kinds = tuple(kind for kind in kinds if not kind.alone)
        self._targets = tuple(targets)
        self._question = question
        self.workspace = Workspace(folder / "workspace")
        self._before: dict[str, Run] = {}
        self._kept: set[Path] = set()

    def __enter__(self) -> Harness:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the Bazel servers."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda name: self._command(name, "shutdown"), self._configurations))

    def warm(self, select: Selector) -> None:
        """Runs all tests at the first commit, and asks the selector about it meanwhile: all servers start at once.

        Raises:
          RuntimeError: the workspace does not build, or a test fails.
        """
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(select, self.workspace.root, self.workspace.base)
            self._before = self._run()
            asked.result()
        errors = [run.error for run in self._before.values() if run.error]
        if errors:
            raise RuntimeError(f"the workspace does not build: {errors[0]}")
        failed = sorted(set().union(*(run.failed for run in self._before.values())))
        if failed:
            raise RuntimeError(f"tests fail before any change: {', '.join(failed)}")
        self._kept = self._disk_entries()
        self.workspace.chosen = tuple(sorted(set().union(*(run.tests for run in self._before.values()))))
        self.workspace.read_by_chosen = self._files_of(self.workspace.chosen)

    def _files_of(self, tests: Sequence[str]) -> tuple[str, ...]:
        """Paths of the source files of the workspace that tests depend on."""
        file = self._folder / "files.query"
        file.write_text(f"kind('source file', deps(set({' '.join(tests)})))", encoding="utf-8")
        result = self._command(next(iter(self._configurations)), "query", f"--query_file={file}", "--output=label")
        labels = [label for label in result.stdout.split() if label.startswith("//")]
        return tuple(sorted(label[2:].replace(":", "/").removeprefix("/") for label in labels))

    def check(self, case: Case, seed: int, select: Selector) -> Result:
        """Tries a case in the warm workspace, and leaves it as it was.

        Raises:
          InapplicableError: the case's kinds do not fit together.
          RuntimeError: Bazel does something that the harness does not understand.
        """
        ws = self.workspace
        try:
            kinds, expected = self._apply(case, seed)
            diff = self._diff()
            with ThreadPoolExecutor(1) as pool:
                asked = pool.submit(select, ws.root, ws.base)
                after = {name: run.since(self._before[name]) for name, run in self._run().items()}
                answer = asked.result().among({*_homes(self._before), *_homes(after)})
            if any(kind.truth == "broken" for kind in kinds) and any(run.error for run in after.values()):
                # (Bazel ends before it runs a test; what can be built would not run again)
                after = {name: Run(cached=run.tests, places=run.places) for name, run in self._before.items()}
            truth = self._truth(kinds, expected, after)
            return Result(
                case.name,
                kinds,
                diff,
                truth,
                None if answer.error else _named(answer.affected),
                tuple(self._other_faults(answer, after, kinds, truth)),
                self._against_table(expected[0], after, truth) if len(kinds) == 1 else "",
            )
        finally:
            ws.reset()
            # (also where no test ran: what Bazel fetched for the change would be fetched again within a later case)
            self._run()
            for path in self._disk_entries() - self._kept:
                path.unlink()

    def _apply(self, case: Case, seed: int) -> tuple[tuple[Kind, ...], list[Expected]]:
        rng = Random(f"{seed}/{case.name}")
        if case.kinds:
            return case.kinds, [kind.apply(self.workspace, rng) for kind in case.kinds]
        for _ in range(_DRAWS):
            kinds = tuple(rng.sample(self._kinds, 2))
            try:
                return kinds, [kind.apply(self.workspace, rng) for kind in kinds]
            except InapplicableError:
                self.workspace.reset()
        raise RuntimeError(f"{case.name}: no two kinds fit together in {_DRAWS} draws")

    def _diff(self) -> str:
        root = self.workspace.root
        workspace.git(root, "add", "--all", "--intent-to-add")
        diff = workspace.git(root, "diff", self.workspace.base)
        workspace.git(root, "reset", "--quiet")
        return diff

    def _truth(
        self, kinds: Sequence[Kind], expected: Sequence[Expected], after: Mapping[str, Run]
    ) -> frozenset[str] | None:
        """What has to run; None for an error."""
        if any(run.error for run in after.values()):
            return None
        homes, before = _homes(after), _homes(self._before)
        truth = {test for test, home in homes.items() if test in after[home].executed or before.get(test) != home}
        for kind, expectation in zip(kinds, expected, strict=True):
            if kind.truth == "spawn":
                truth -= {
                    test
                    for test in expectation.touched
                    if test in homes and before.get(test) == homes[test] and test not in after[homes[test]].spawned
                }
        for kind, expectation in zip(kinds, expected, strict=True):
            if kind.truth in ("declared", "broken"):
                truth |= self._expand(expectation, homes)
        return _named({test: homes[test] for test in truth})

    def _expand(self, expected: Expected, homes: Mapping[str, str]) -> set[str]:
        """The tests that an expectation means."""
        if expected.answer == "t":
            return {test for test in expected.labels if test in homes}
        if expected.answer == "all":
            return {test for test, home in homes.items() if expected.configuration in ("", home)}
        if expected.answer == "R":
            return {
                test
                for name in self._configurations
                for test in self._dependents(name, expected.labels)
                if homes.get(test) == name
            }
        return set()

    def _dependents(self, configuration: str, labels: Iterable[str]) -> set[str]:
        labels = [label.replace("@hub_", "@@_main~wheels~hub_") for label in labels]
        universe = " + ".join(target for target in self._targets if not target.startswith("-"))
        query = " + ".join(f"rdeps({universe}, {label})" for label in labels)
        flags = self._configurations[configuration] if self._question == "cquery" else ()
        result = self._command(configuration, self._question, *flags, "--keep_going", "--output=label", query)
        return {line.partition(" ")[0] for line in result.stdout.splitlines()}

    def _other_faults(
        self, answer: Answer, after: Mapping[str, Run], kinds: Sequence[Kind], truth: frozenset[str] | None
    ) -> Iterator[str]:
        if truth is None:
            if not answer.error:
                yield "no error, but Bazel says: " + next(run.error for run in after.values() if run.error)
            return
        if answer.error:
            yield f"error: {answer.error}"
            return
        homes, before = _homes(after), _homes(self._before)
        told = {**answer.unaffected, **answer.affected}
        for test in sorted(told.keys() | homes.keys()):
            if told.get(test) != homes.get(test):
                yield f"{test} belongs to {homes.get(test)}, not to {told.get(test)}"
        blind = any(kind.name == "base does not load" for kind in kinds)
        if blind != answer.everything and ".bazelversion" not in [kind.name for kind in kinds]:
            yield "everything selected, not flagged" if blind else "flagged as everything"
        gone = before.keys() - homes.keys()
        deleted = set() if blind else {test for test in gone if not self._target_exists(test)}
        if answer.deleted != deleted:
            yield f"deleted: {sorted(deleted)}, not {sorted(answer.deleted)}"

    def _target_exists(self, label: str) -> bool:
        return self._command(next(iter(self._configurations)), "query", label).returncode == 0

    def _against_table(self, expected: Expected, after: Mapping[str, Run], truth: frozenset[str] | None) -> str:
        """How Bazel disagrees with the expected answer; "" if it does not."""
        if expected.answer == "?":
            return ""
        if expected.answer == "E" or truth is None:
            error = next((run.error for run in after.values() if run.error), "")
            return (
                ""
                if (expected.answer == "E") == (truth is None)
                else f"{expected.answer}, Bazel: {error or 'no error'}"
            )
        homes = _homes(after)
        wanted = _named({test: homes[test] for test in self._expand(expected, homes)})
        if wanted == truth:
            return ""
        return f"{expected.answer}: Bazel runs also {sorted(truth - wanted)}, does not run {sorted(wanted - truth)}"

    def _run(self) -> dict[str, Run]:
        """Runs all tests in all configurations."""
        with ThreadPoolExecutor() as pool:
            return dict(zip(self._configurations, pool.map(self._test, self._configurations), strict=True))

    def _test(self, configuration: str) -> Run:
        events = self._folder / f"{configuration}.json"
        events.unlink(missing_ok=True)
        result = self._command(
            configuration,
            "test",
            f"--build_event_json_file={events}",
            f"--disk_cache={self._folder / 'disk' / configuration}",
            *self._configurations[configuration],
            *_OPTIONS,
            *self._targets,
        )
        if result.returncode not in (0, _TESTS_FAILED):
            errors = [line for line in result.stderr.splitlines() if line.startswith(("ERROR", "FATAL"))]
            return Run(error=errors[0] if errors else result.stderr[-500:] or f"status {result.returncode}")
        return read_events(events)

    def _command(self, configuration: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        base = self._folder / "output" / configuration
        return subprocess.run(
            [*self._bazel, f"--output_base={base}", "--max_idle_secs=900", *arguments],
            cwd=self.workspace.root,
            capture_output=True,
            text=True,
            check=False,
        )

    def _disk_entries(self) -> set[Path]:
        return {path for path in (self._folder / "disk").rglob("*") if path.is_file()}


def bazel_version(bazel: Sequence[str]) -> str:
    """The version of a Bazel."""
    result = subprocess.run([*bazel, "--version"], capture_output=True, text=True, check=True)
    return result.stdout.split()[-1]


def read_events(path: Path) -> Run:
    """What a build event file says about tests; one of several shards that ran is enough."""
    executed, spawned, cached, failed = set(), set(), set(), set()
    places: dict[str, set[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        label = event["id"].get("testResult", {}).get("label")
        if label is None or "testResult" not in event:
            continue
        result = event["testResult"]
        places.setdefault(label, set()).update(output["uri"] for output in result["testActionOutput"])
        if result.get("status", "PASSED") not in ("PASSED", "FLAKY"):
            failed.add(label)
        if result.get("cachedLocally"):
            cached.add(label)
        else:
            executed.add(label)
            if not result.get("executionInfo", {}).get("cachedRemotely"):
                spawned.add(label)
    return Run(
        frozenset(executed),
        frozenset(spawned),
        frozenset(cached - executed),
        frozenset(failed),
        {label: frozenset(uris) for label, uris in places.items()},
    )


def _homes(runs: Mapping[str, Run]) -> dict[str, str]:
    """Test to the first configuration in which it is compatible."""
    homes: dict[str, str] = {}
    for name, run in runs.items():
        for test in run.tests:
            homes.setdefault(test, name)
    return homes


def _named(homes: Mapping[str, str]) -> frozenset[str]:
    return frozenset(f"{home} {test}" for test, home in homes.items())


def cases(kinds: Iterable[Kind], singles: int, pairs: int) -> list[Case]:
    """The cases of a run: `singles` of the kinds in turn, then `pairs` of two kinds each."""
    kinds = list(kinds)
    turns = [(kinds[index % len(kinds)], index // len(kinds)) for index in range(singles)]
    return [Case(f"{kind.name}#{turn}", (kind,)) for kind, turn in turns] + [
        Case(f"pair#{index}") for index in range(pairs)
    ]


def find_case(kinds: Mapping[str, Kind], name: str) -> Case:
    """The case of a name in a report.

    Raises:
      ValueError: there is no such kind.
    """
    kind = name.rpartition("#")[0]
    if kind == "pair":
        return Case(name)
    if kind not in kinds:
        raise ValueError(f"no case {name!r}: it is KIND#NUMBER or pair#NUMBER, where KIND is one of {', '.join(kinds)}")
    return Case(name, (kinds[kind],))
