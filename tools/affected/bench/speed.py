"""What a selection costs: ours beside a query, a cquery and the hashing of two graphs, on workspaces of several sizes.

usage: ./bazelw run //tools/affected/bench:speed -- --sizes 500,2000,10000 --output docs/benchmarks

Everything happens below a temporary folder, with Bazel servers of its own that end with it.
"""

from __future__ import annotations

import datetime
import multiprocessing
import os
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tools.affected.bench import big_workspace, measure, peer_hashing, servers, speed_report
from tools.affected.bench.ours import Ours, OursCommand
from tools.affected.bench.participants import OneQuestion, Participant, TwoGraphs, own_peak_mb
from tools.bazel import host_bazel

OURS = ("ours", "ours, command")

console = Console()


def participants(folder: Path, origin: Path, bazel: Sequence[str], root: Path) -> list[Participant]:
    """Everyone who is measured, each with a clone of `origin` below `folder`; the command is run in `root`."""
    return [
        OneQuestion(speed_report.YARDSTICK, folder / "query", origin, bazel, peer_hashing.QUERY),
        OneQuestion("cquery", folder / "cquery", origin, bazel, ("cquery", "deps(//...)")),
        TwoGraphs("two graphs", folder / "two_graphs", origin, bazel),
        Ours(OURS[0], folder / "ours", origin, bazel),
        OursCommand(OURS[1], folder / "command", origin, bazel, root),
    ]


def measure_size(
    targets: int, root: Path, bazel: Sequence[str], warm_up: int, runs: int, cold_runs: int, progress: Progress
) -> speed_report.Size:
    """Measures on a workspace of so many targets.

    Raises:
      WrongAnswerError: a participant missed an affected test.
    """
    workspace = big_workspace.plan(targets)
    with tempfile.TemporaryDirectory(prefix="affected-speed-", dir=os.environ["HOME"]) as folder:
        origin = Path(folder) / "origin"
        origin.mkdir()
        big_workspace.write(workspace, origin, (root / ".bazelversion").read_text().strip())
        everyone = participants(Path(folder), origin, bazel, root)
        turns = measure.Turns(workspace, exact=OURS)
        plans = [(case, runs) for case in measure.cases("warm")] + [(case, cold_runs) for case in measure.cases("cold")]
        total = sum(count * len(measure.taking_part(everyone, case)) for case, count in plans)
        task = progress.add_task(f"{targets:,} targets", total=total + warm_up * len(everyone))
        try:
            before: dict[str, list[float]] = {each.name: [] for each in everyone}
            for k in range(warm_up):
                change = big_workspace.CHANGES[k % len(big_workspace.CHANGES)]
                for each in everyone:
                    before[each.name].append(turns.run(each, measure.Case("warm", "cached", change))[0])
                    progress.advance(task)
            rows: list[measure.Row] = []
            peaks: dict[str, speed_report.Memory] = {}
            for case, count in plans:
                if case.server == "cold" and not peaks:
                    peaks = {each.name: _memory(each) for each in everyone}
                taking_part = measure.taking_part(everyone, case)
                if count:
                    rows += turns.rows(taking_part, case, count, lambda: progress.advance(task))
            return speed_report.Size(
                targets=targets,
                tests=len(workspace.tests),
                rows=tuple(rows),
                memory=peaks,
                warm_up={name: tuple(seconds) for name, seconds in before.items()},
            )
        finally:
            servers.end(Path(folder))
            # (some of what Bazel writes is read-only)
            subprocess.run(["chmod", "-R", "u+w", folder], check=False)


def _memory(participant: Participant) -> speed_report.Memory:
    if not participant.compares or isinstance(participant, OursCommand):  # (its process is not a child of ours)
        return speed_report.Memory(servers.peak_mb(participant.folder), None)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        own = pool.submit(own_peak_mb, participant).result()
    return speed_report.Memory(servers.peak_mb(participant.folder), own)


def _facts(warm_up: int, runs: int, cold_runs: int) -> dict[str, str | int]:
    return {
        "date": datetime.date.today().isoformat(),
        "cores": os.cpu_count() or 0,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
        "load_average_before": f"{os.getloadavg()[0]:.2f}",
        "warm_up_runs": warm_up,
        "runs": runs,
        "cold_runs": cold_runs,
    }


def main(
    output: Annotated[Path, typer.Option(help="folder for affected_speed.json and .svg")],
    sizes: Annotated[str, typer.Option(help="numbers of targets, by commas")] = "500,2000,10000",
    warm_up: Annotated[int, typer.Option(help="runs of each before any counts")] = 15,
    runs: Annotated[int, typer.Option(help="counted runs of each case with a warm server")] = 7,
    cold_runs: Annotated[int, typer.Option(help="counted runs of each case with a cold server")] = 3,
) -> None:
    """Measures; writes the numbers and a picture, and prints tables as markdown."""
    root = Path(os.environ["BUILD_WORKSPACE_DIRECTORY"])
    output = Path(os.environ["BUILD_WORKING_DIRECTORY"]) / output
    facts = _facts(warm_up, runs, cold_runs)
    bazel = host_bazel.command()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        measured = []
        for each in sizes.split(","):
            measured.append(measure_size(int(each), root, bazel, warm_up, runs, cold_runs, progress))
            (output / "affected_speed.json").write_text(speed_report.to_json(measured, facts))
    # (imported late: a process that is measured imports this module, and draws nothing)
    from tools.affected.bench import speed_picture

    speed_picture.draw(measured, output / "affected_speed.svg")
    console.print(speed_report.report(measured, OURS), markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
