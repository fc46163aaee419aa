"""What Bazel costs: set-up on a new machine by step, and one torch test beside the same file under plain pytest.

usage: ./bazelw run //tools/bench:bazel_overhead -- --output docs/benchmarks

Works in a clone of HEAD below a temporary folder with an output base of its own; the user's tree is not touched.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import matplotlib
import typer
from rich.console import Console
from rich.table import Table

from tools.bazel import registry

matplotlib.use("Agg")
from matplotlib import pyplot as plt

TEST = "testing/tolerances/tolerances_test.py"
LABEL = "//testing/tolerances:tolerances_test"
PACKAGES = ("torch", "numpy", "pytest")
_STEP = re.compile(r"^bazelw: (.*): ([0-9.]+) s$", re.MULTILINE)

console = Console()


def run(command: list[str], cwd: Path, environ: dict[str, str]) -> tuple[float, str]:
    """Runs a command; returns wall seconds and what it said.

    Raises:
      RuntimeError: it failed.
    """
    begin = time.monotonic()
    result = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - begin
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}")
    return seconds, result.stderr + result.stdout


def measure(clone: Path, scratch: Path, runs: int) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Measures one machine.

    Args:
      clone: a checkout that may be changed.
      scratch: an empty folder, for caches.
      runs: counted runs of each warm command.

    Returns:
      seconds of each step of the set-up, and the seconds of every run of each command.
    """
    bare = {"PATH": "/usr/bin:/bin", "HOME": os.environ["HOME"], "XDG_CACHE_HOME": str(scratch / "cache")}
    bazel = ["./bazelw", f"--output_base={scratch / 'output'}"]
    test = [*bazel, "test", LABEL, "--curses=no"]

    with console.status("setting up from nothing"):
        total, said = run(["./bazelw", "--version"], clone, bare)
    steps = {title: float(seconds) for title, seconds in _STEP.findall(said)}
    console.print(f"set-up from nothing: {total:.1f} s")

    times: dict[str, list[float]] = {"bazel, first run": [], "plain pytest": [], "bazel, run again": []}
    times |= {"bazel, after touching the test": [], "bazel, cached": []}
    with console.status("first run: fetching torch and pytest"):
        times["bazel, first run"].append(run(test, clone, bare)[0])
    with console.status("making a virtual environment of the same wheels"):
        uv = next((scratch / "cache/trainyard").glob("uv-*/*.data/scripts/uv"))
        python = scratch / "venv/bin/python"
        run([str(uv), "venv", "--quiet", "--python", sys.executable, str(scratch / "venv")], clone, dict(os.environ))
        locked = [
            line.split()[0] for line in (clone / "third_party/python/cpu.txt").read_text().splitlines() if "==" in line
        ]
        pins = [pin for pin in locked if pin.split("==")[0] in PACKAGES]
        install = [str(uv), "pip", "install", "--quiet", "--python", str(python), "--index-strategy=unsafe-best-match"]
        run([*install, *pins], clone, {**os.environ, **registry.uv_environment_here()})
    # (without the repo's conftest: the peer is pytest as it comes)
    pytest = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--noconftest", TEST]
    pytest += [f"--rootdir={clone}"]
    path = {**bare, "PYTHONPATH": str(clone)}
    for turn in range(runs + 1):
        with console.status(f"round {turn} of {runs}"):
            plain = run(pytest, clone, path)[0]
            again = run([*test, "--nocache_test_results"], clone, bare)[0]
            with (clone / TEST).open("a") as file:
                file.write(f"# touched {turn}\n")
            touched = run(test, clone, bare)[0]
            cached = run(test, clone, bare)[0]
        if turn:  # (the first round warms the page cache and pytest's rewriting)
            times["plain pytest"].append(plain)
            times["bazel, run again"].append(again)
            times["bazel, after touching the test"].append(touched)
            times["bazel, cached"].append(cached)
    run([*bazel, "shutdown"], clone, bare)
    return {**steps, "in all": total}, times


def draw(steps: dict[str, float], times: dict[str, list[float]], path: Path) -> None:
    """Draws both measurements as bars."""
    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(9, 5.5), layout="constrained", height_ratios=[len(steps), len(times)]
    )
    for axes, values, title in (
        (upper, steps, "bazelw on a new machine, by step"),
        (lower, {name: statistics.median(runs) for name, runs in times.items()}, f"{LABEL}, median"),
    ):
        bars = axes.barh(list(values), list(values.values()), color="#4477aa")
        axes.bar_label(bars, fmt="%.2f s", padding=3)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_title(title)
        axes.set_xlabel("seconds")
    figure.savefig(path, dpi=110)


def main(
    output: Annotated[Path, typer.Option(help="folder for bazel_overhead.json and .png")],
    runs: Annotated[int, typer.Option(help="counted runs of each warm command")] = 5,
) -> None:
    """Measures the set-up and the overhead of Bazel over plain pytest."""
    root = Path(os.environ["BUILD_WORKSPACE_DIRECTORY"])
    output = Path(os.environ["BUILD_WORKING_DIRECTORY"]) / output
    with tempfile.TemporaryDirectory(dir=os.environ["HOME"]) as folder:
        scratch = Path(folder)
        run(["git", "clone", "--quiet", str(root), str(scratch / "clone")], root, dict(os.environ))
        try:
            steps, times = measure(scratch / "clone", scratch, runs)
        finally:
            subprocess.run(["chmod", "-R", "u+w", folder], check=False)
    plain = statistics.median(times["plain pytest"])
    table = Table("command", "min s", "median s", "max s", "/ plain pytest")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        table.add_row(name, f"{min(seconds):.2f}", f"{median:.2f}", f"{max(seconds):.2f}", f"{median / plain:.2f}")
    console.print(table)
    (output / "bazel_overhead.json").write_text(json.dumps({"setup": steps, "test": times}, indent=1) + "\n")
    draw(steps, times, output / "bazel_overhead.png")


if __name__ == "__main__":
    typer.run(main)
