"""What remote execution costs and gains: two workloads on clusters of this machine, beside local execution.

usage: ./bazelw run //tools/remote/bench:remote_speed -- --output docs/benchmarks

Works in a clone of HEAD, with an output base and clusters of its own, all below a temporary folder and all ended with
it. Workers and Bazel share the machine: numbers of several workers say what they cost, not what other machines gain.
"""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tools.remote.bench import bench_report
from tools.remote.bench.measure import LOCAL, TORCH, Row, Workload, run_cases, small_tests
from tools.remote.cluster import Cluster
from tools.remote.places import Places
from tools.remote.settings import Settings

console = Console(stderr=True, highlight=False)


def measure_remote(bazel: list[str], clone: Path, workload: Workload, workers: int, home: Path, port: int) -> list[Row]:
    """Measures on a new cluster of so many workers, which has no blobs yet."""
    cluster = Cluster(Places(home))
    wanted = Settings(host="127.0.0.1", port=port, quota="30G")
    for _ in range(workers):
        wanted = wanted.with_worker("cpu")
    try:
        cluster.up(wanted)
        flags = ["--config=remote", f"--remote_executor=grpc://{wanted.address}"]
        return run_cases(bazel, clone, workload, str(workers), flags)
    finally:
        cluster.down()


def main(
    output: Annotated[Path, typer.Option(help="folder for remote_speed.json, .md and .svg")],
    runs: Annotated[int, typer.Option(help="counted runs of everything")] = 3,
    workers: Annotated[str, typer.Option(help="numbers of workers, by commas")] = "1,2,4",
    small: Annotated[int, typer.Option(help="how many small tests")] = 40,
    torch: Annotated[bool, typer.Option(help="measure the torch test")] = True,
    port: Annotated[int, typer.Option(help="of the clusters")] = 50091,
) -> None:
    """Measures; writes the numbers, a table and a picture."""
    root = Path(os.environ["BUILD_WORKSPACE_DIRECTORY"])
    output = Path(os.environ["BUILD_WORKING_DIRECTORY"]) / output
    facts: dict[str, str | int] = {
        "date": datetime.date.today().isoformat(),
        "cores": os.cpu_count() or 0,
        "python": platform.python_version(),
        "load_average_before": f"{os.getloadavg()[0]:.2f}",
        "runs": runs,
    }
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="rs-", dir=os.environ["HOME"]) as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(root), str(clone)], check=True)
        bazel = [str(clone / "bazelw"), f"--output_base={folder}/output"]
        workloads = [small_tests(clone, small), *([TORCH] if torch else [])]
        try:
            for workload in workloads:
                # (fetches wheels and builds what is not the tests' own, and warms the server: counted nowhere)
                subprocess.run([*bazel, "build", workload.target], cwd=clone, check=True)
            for turn in range(runs):
                for workload in workloads:
                    with console.status(f"round {turn + 1} of {runs}: {workload.name}, local"):
                        rows += run_cases(bazel, clone, workload, LOCAL, ())
                    for count in map(int, workers.split(",")):
                        with console.status(f"round {turn + 1} of {runs}: {workload.name}, {count} workers"):
                            home = Path(folder) / f"{turn}{count}{workload.name[0]}"
                            rows += measure_remote(bazel, clone, workload, count, home, port)
                    (output / "remote_speed.json").write_text(bench_report.to_json(rows, facts))
        finally:
            subprocess.run([*bazel, "shutdown"], cwd=clone, check=False)
            # (some of what Bazel writes is read-only)
            subprocess.run(["chmod", "-R", "u+w", folder], check=False)
    (output / "remote_speed.md").write_text(bench_report.to_markdown(rows))
    bench_report.draw(rows, output / "remote_speed.svg")
    print(bench_report.to_markdown(rows), end="")


if __name__ == "__main__":
    typer.run(main)
