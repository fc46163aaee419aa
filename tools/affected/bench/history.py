"""What selection would have saved in this repo's own history: for every commit, the tests selected from its parent.

usage: ./bazelw run //tools/affected/bench:history -- --output docs/benchmarks

Works in a clone below a temporary folder, with a cache and Bazel servers of its own that end with it.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tools.affected.bench import history_report, servers
from tools.affected.bench.big_workspace import git
from tools.affected.bench.history_report import Commit
from tools.affected.selection import SelectError, Selection
from tools.affected.selector import Options, select
from tools.bazel import host_bazel

CONFIGURATIONS = {"cpu": (), "gpu": ("--config=gpu_x8",)}

console = Console()


def commits_of(clone: Path, last: int | None) -> list[tuple[str, str]]:
    """Ids and subjects of the commits that have a parent, along first parents, oldest first; the `last` so many."""
    count = [f"--max-count={last}"] if last else []
    log = git(clone, "log", "--first-parent", "--min-parents=1", "--format=%h%x09%s", *count)
    pairs = [line.split("\t", 1) for line in reversed(log.splitlines())]
    return [(commit, subject) for commit, subject in pairs]


def judged(commit: str, subject: str, answer: Selection | SelectError, seconds: float, tests_before: int) -> Commit:
    """What an answer means for a commit; one that does not load costs as many tests as the last that did."""
    if isinstance(answer, SelectError):
        reason = next(iter(str(answer).splitlines()), "")
        return Commit(commit, subject, tests_before, tests_before, seconds, reason)
    affected = len(answer.affected)
    return Commit(commit, subject, affected, affected + len(answer.unaffected), seconds, answer.everything or "")


def measure(clone: Path, options: Options, last: int | None) -> Iterator[tuple[Commit, int]]:
    """Judges every commit; yields each with the number of all."""
    pairs = commits_of(clone, last)
    tests = 0
    for commit, subject in pairs:
        begin = time.monotonic()
        answer: Selection | SelectError
        try:
            answer = select(clone, f"{commit}^", commit, options)
        except SelectError as error:
            answer = error
        found = judged(commit, subject, answer, time.monotonic() - begin, tests)
        tests = found.tests
        yield found, len(pairs)


def main(
    output: Annotated[Path, typer.Option(help="folder for affected_history.json and .svg")],
    last: Annotated[int | None, typer.Option(help="only so many commits, the newest")] = None,
) -> None:
    """Judges the commits; writes numbers and a picture, and prints the table as markdown."""
    root = Path(os.environ["BUILD_WORKSPACE_DIRECTORY"])
    output = Path(os.environ["BUILD_WORKING_DIRECTORY"]) / output
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    commits = []
    with tempfile.TemporaryDirectory(prefix="affected-history-", dir=os.environ["HOME"]) as folder:
        clone, cache = Path(folder) / "clone", Path(folder) / "cache"
        git(Path(folder), "clone", "--quiet", str(root), str(clone))
        options = Options(bazel=host_bazel.command(), configurations=CONFIGURATIONS, cache=cache)
        try:
            with Progress(*columns, console=console) as progress:
                task = progress.add_task("selecting", total=None)
                for each, total in measure(clone, options, last):
                    commits.append(each)
                    answer = f"{each.selected:4} of {each.tests:4}  {each.commit} {each.subject}"
                    progress.console.print(answer, "FLAGGED" if each.flagged else "", markup=False, highlight=False)
                    progress.update(task, total=total, advance=1)
        finally:
            servers.end(Path(folder))
            # (some of what Bazel writes is read-only)
            subprocess.run(["chmod", "-R", "u+w", folder], check=False)
    (output / "affected_history.json").write_text(history_report.to_json(commits))
    history_report.draw(commits, output / "affected_history.svg")
    console.print(history_report.table(commits), markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
