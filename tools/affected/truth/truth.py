"""Compares the selector with what Bazel runs again, change by change.

usage: ./bazelw run //tools/affected/truth -- --cases 221 --pairs 60 --seed 1
       ./bazelw run //tools/affected/truth -- --repo . --cases 21 --seed 1
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from tools.affected import settings
from tools.affected.truth import harness, report, workspace
from tools.affected.truth.changes import KINDS
from tools.affected.truth.harness import Case, Harness, Result
from tools.affected.truth.repo_changes import KINDS as REPO_KINDS
from tools.affected.truth.subject import Subject
from tools.affected.truth.workspace import CONFIGURATIONS
from tools.bazel import host_bazel

# A run whose changes hardly ever touch a test proves nothing.
TELLING = 0.3
_PAIRS = 60
# (tests of a repository expect a sandbox; their limits are for machines with nothing else to do)
_REPO_FLAGS = ("--spawn_strategy=sandboxed", "--test_timeout=600,1200,2400,7200")
TESTS = ["//tools/affected:all", "//trainers/data/..."]
_SECONDS_BETWEEN_LINES = 30  # of progress, where there is no terminal

console = Console(stderr=True, highlight=False)


Stage = tuple[Harness, Subject]
"""Who judges, and who is judged."""


def on_synthetic(
    bazel: Sequence[str], folder: Path, names: Iterable[str] = tuple(CONFIGURATIONS), *, exhaustive: bool = False
) -> Stage:
    """The stage with the synthetic workspace, below `folder`, in some of its configurations."""
    configurations = {name: CONFIGURATIONS[name] for name in names}
    workspace.write(folder / "truth" / "workspace", harness.bazel_version(bazel))
    return (
        Harness(bazel, folder / "truth", configurations, KINDS.values()),
        Subject(bazel, folder / "cache", configurations, exhaustive=exhaustive),
    )


def on_repo(bazel: Sequence[str], folder: Path, repo: Path, tests: Sequence[str], *, exhaustive: bool = False) -> Stage:
    """The stage with a clone of a repository's HEAD, below `folder`, in the first of its configurations.

    Args:
      bazel: the Bazel to run, as the beginning of a command line.
      folder: a folder to work in.
      repo: the repository.
      tests: patterns and flags that say which of its tests to look at.
      exhaustive: the selector takes no shortcut.
    """
    clone = folder / "truth" / "workspace"
    clone.parent.mkdir(parents=True)
    workspace.git(repo, "clone", "--quiet", ".", str(clone))
    said = settings.read(clone)
    configurations = dict([next(iter(said.configurations.items()))])
    return (
        Harness(bazel, folder / "truth", configurations, REPO_KINDS.values(), tests, "query"),
        Subject(bazel, folder / "cache", configurations, said.query_flags, exhaustive=exhaustive),
    )


def run(stage: Stage, cases: Sequence[Case], seed: int) -> list[Result]:
    """Tries cases, and tells every fault when it is seen."""
    results = []
    started = told = time.monotonic()
    with stage[0] as judge, stage[1] as subject:
        judge.warm(subject)
        console.print(f"all servers are warm after {time.monotonic() - started:.0f} s")
        for case in track(cases, "trying changes", console=console, disable=not console.is_terminal):
            result = judge.check(case, seed, subject)
            results.append(result)
            if not console.is_terminal and time.monotonic() > told + _SECONDS_BETWEEN_LINES:
                told = time.monotonic()
                console.print(f"{len(results)} of {len(cases)} changes tried in {told - started:.0f} s")
            for line in _lines(result):
                console.print(line, soft_wrap=True, markup=False)
    return results


def verdict(results: Sequence[Result]) -> list[str]:
    """What is wrong with a run; [] if nothing is."""
    total = report.scores(results)["all"]
    faults = [f"{result.case}: {fault}" for result in results for fault in result.faults]
    if not results:
        faults.append("no change was tried")
    elif total.telling < TELLING * total.tried:
        faults.append(f"only {total.telling} of {total.tried} changes made Bazel run a test: they prove nothing")
    return faults


def _lines(result: Result) -> Iterable[str]:
    if result.faults:
        names = " + ".join(kind.name for kind in result.kinds)
        yield f"{result.case} ({names}): {'; '.join(result.faults)}"
        yield result.diff
    if result.table:
        yield f"{result.case}: the table says {result.table}"


def main(
    repo: Annotated[Path | None, typer.Option(help="Change a clone of this repository, instead.")] = None,
    tests: Annotated[list[str], typer.Option(help="With --repo: the tests to look at; may be given again.")] = TESTS,
    test_tag_filters: Annotated[str, typer.Option(help="With --repo: as for Bazel.")] = "unit",
    cases: Annotated[int | None, typer.Option(help="Changes of one kind, all kinds in turn.")] = None,
    pairs: Annotated[int | None, typer.Option(help="Changes of two kinds at once.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed makes the same changes.")] = 1,
    kind: Annotated[list[str] | None, typer.Option(help="Only this kind; may be given again.")] = None,
    case: Annotated[list[str] | None, typer.Option(help="Only this case of a report, such as 'pair#3'.")] = None,
    exhaustive: Annotated[bool, typer.Option("--exhaustive", help="The selector takes no shortcut.")] = False,
    file: Annotated[Path | None, typer.Option("--json", help="Where to write all details.")] = None,
    bazel: Annotated[Path | None, typer.Option(help="The Bazel to run. Default: the one of this build.")] = None,
) -> None:
    """Compares the selector with what Bazel runs again."""
    kinds = REPO_KINDS if repo else KINDS
    unknown = set(kind or ()) - kinds.keys()
    if unknown:
        raise typer.BadParameter(f"no kind {', '.join(sorted(unknown))}; there are: {', '.join(kinds)}")
    here = Path(os.environ.get("BUILD_WORKING_DIRECTORY", os.curdir)).absolute()
    program = (str(here / bazel),) if bazel else host_bazel.short_lived_command()
    chosen = [kinds[name] for name in kind or kinds]
    pairs = _PAIRS if pairs is None and not repo else pairs or 0
    wanted = [harness.find_case(kinds, name) for name in case or ()] or harness.cases(
        chosen, len(chosen) if cases is None else cases, pairs
    )
    console.print(f"{len(wanted)} changes, --seed {seed}")
    with tempfile.TemporaryDirectory(prefix="truth-") as folder:
        if repo:
            patterns = [*tests, f"--test_tag_filters={test_tag_filters}", *_REPO_FLAGS]
            stage = on_repo(program, Path(folder), here / repo, patterns, exhaustive=exhaustive)
        else:
            stage = on_synthetic(program, Path(folder), exhaustive=exhaustive)
        results = run(stage, wanted, seed)
    found = report.scores(results) if repo else report.themes(results)
    Console(width=None if console.is_terminal else 120).print(report.table(found))
    if file:
        (here / file).write_text(json.dumps(report.as_json(results, seed), indent=1) + "\n", encoding="utf-8")
    faults = verdict(results)
    for fault in faults:
        console.print(fault, style="red", markup=False, soft_wrap=True)
    raise typer.Exit(1 if faults else 0)


if __name__ == "__main__":
    typer.run(main)
