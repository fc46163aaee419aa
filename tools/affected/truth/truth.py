"""Compares the selector with what Bazel runs again, change by change.

usage: ./bazelw run //tools/affected/truth -- --cases 210 --pairs 60 --seed 1
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

from tools.affected.truth import harness, report
from tools.affected.truth.changes import KINDS
from tools.affected.truth.harness import Case, Harness, Result
from tools.affected.truth.subject import Subject
from tools.affected.truth.workspace import CONFIGURATIONS
from tools.bazel import host_bazel

# A run whose changes hardly ever touch a test proves nothing.
TELLING = 0.3
_TOLD = 20  # changes between two lines of progress, where there is no terminal

console = Console(stderr=True, highlight=False)


def run(
    bazel: Sequence[str],
    folder: Path,
    cases: Sequence[Case],
    seed: int,
    *,
    configurations: Sequence[str] = tuple(CONFIGURATIONS),
    exhaustive: bool = False,
) -> list[Result]:
    """Tries cases in a new workspace below `folder`, and tells every fault when it is seen."""
    results = []
    started = time.monotonic()
    with (
        Harness(bazel, folder / "truth", configurations) as judge,
        Subject(bazel, folder / "cache", configurations, exhaustive=exhaustive) as subject,
    ):
        judge.warm(subject)
        for case in track(cases, "trying changes", console=console, disable=not console.is_terminal):
            result = judge.check(case, seed, subject)
            results.append(result)
            if not console.is_terminal and len(results) % _TOLD == 0:
                console.print(f"{len(results)} of {len(cases)} changes tried in {time.monotonic() - started:.0f} s")
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
        yield f"{result.case} ({' + '.join(result.kinds)}): {'; '.join(result.faults)}"
        yield result.diff
    if result.table:
        yield f"{result.case}: the table says {result.table}"


def main(
    cases: Annotated[int, typer.Option(help="Changes of one kind, all kinds in turn.")] = len(KINDS),
    pairs: Annotated[int, typer.Option(help="Changes of two kinds at once.")] = 60,
    seed: Annotated[int, typer.Option(help="The same seed makes the same changes.")] = 1,
    kind: Annotated[list[str] | None, typer.Option(help="Only this kind; may be given again.")] = None,
    case: Annotated[list[str] | None, typer.Option(help="Only this case of a report, such as 'pair#3'.")] = None,
    exhaustive: Annotated[bool, typer.Option("--exhaustive", help="The selector takes no shortcut.")] = False,
    file: Annotated[Path | None, typer.Option("--json", help="Where to write all details.")] = None,
    bazel: Annotated[Path | None, typer.Option(help="The Bazel to run. Default: the one of this build.")] = None,
) -> None:
    """Compares the selector with what Bazel runs again."""
    unknown = set(kind or ()) - KINDS.keys()
    if unknown:
        raise typer.BadParameter(f"no kind {', '.join(sorted(unknown))}; there are: {', '.join(KINDS)}")
    here = Path(os.environ.get("BUILD_WORKING_DIRECTORY", os.curdir)).absolute()
    program = (str(here / bazel),) if bazel else host_bazel.short_lived_command()
    wanted = [harness.find_case(name) for name in case or ()] or harness.cases(kind or [], cases, pairs)
    console.print(f"{len(wanted)} changes, --seed {seed}")
    with tempfile.TemporaryDirectory(prefix="truth-") as folder:
        results = run(program, Path(folder), wanted, seed, exhaustive=exhaustive)
    Console(width=None if console.is_terminal else 120).print(report.table(results))
    if file:
        (here / file).write_text(json.dumps(report.as_json(results, seed), indent=1) + "\n", encoding="utf-8")
    faults = verdict(results)
    for fault in faults:
        console.print(fault, style="red", markup=False, soft_wrap=True)
    raise typer.Exit(1 if faults else 0)


if __name__ == "__main__":
    typer.run(main)
