"""Benchmark of rank start-up: ours beside what torch offers, in one run; results in docs/benchmarks/rank_startup.md."""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import matplotlib.figure
import torch
import torch.multiprocessing
from torch.testing._internal.common_distributed import MultiProcessTestCase

from testing.distributed.rank_startup_jobs import be_rank, launch

WORLD_SIZES = [2, 4, 8, 16, 32]


class PeerCase(MultiProcessTestCase):
    """A test as torch's own multi-process tests are written; the benchmark runs it, not pytest."""

    __test__ = False

    @property
    def world_size(self):
        return int(os.environ["PEER_RANKS"])

    def setUp(self):
        super().setUp()
        self._spawn_processes()

    def test_all_reduce(self):
        be_rank(self.rank, self.world_size, self.file_name)


def launch_cold(world_size):
    """A fresh interpreter imports torch, starts the server, and launches once."""
    source = f"from testing.distributed.rank_startup_jobs import launch; launch({world_size})"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", source], env=env, check=True)


def spawn(world_size):
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(be_rank, (world_size, f"{folder}/store"), nprocs=world_size)


def peer_case(world_size):
    os.environ["PEER_RANKS"] = str(world_size)
    result = unittest.TestResult()
    PeerCase("test_all_reduce").run(result)
    assert result.wasSuccessful(), result.errors + result.failures


# What is measured, and how often.
CONTENDERS = {
    "fork server, warm": (launch, 5),
    "fork server, cold": (launch_cold, 3),
    "torch.multiprocessing.spawn": (spawn, 1),
    "torch MultiProcessTestCase": (peer_case, 1),
}


def seconds(run, world_size):
    start = time.perf_counter()
    run(world_size)
    return time.perf_counter() - start


def draw(results, path):
    figure = matplotlib.figure.Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, by_size in results.items():
        axes.plot(WORLD_SIZES, [statistics.median(by_size[size]) for size in WORLD_SIZES], marker="o", label=name)
    axes.set(xscale="log", yscale="log", xlabel="ranks", ylabel="seconds: up, one all-reduce, down")
    axes.set_xticks(WORLD_SIZES, [str(size) for size in WORLD_SIZES])
    axes.grid(which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path)


def test_rank_startup(capsys):
    launch(2)  # the server is up
    results = {name: {} for name in CONTENDERS}
    for size in WORLD_SIZES:  # all contenders of one size together: other load on the machine then meets all alike
        for name, (run, times) in CONTENDERS.items():
            results[name][size] = [seconds(run, size) for _ in range(times)]
    load = " ".join(f"{average:.1f}" for average in os.getloadavg())
    lines = ["| ranks | " + " | ".join(results) + " |", "|---:|" + "---:|" * len(results)]
    for size in WORLD_SIZES:
        cells = [f"{min(r[size]):.2f} / {statistics.median(r[size]):.2f}" for r in results.values()]
        lines.append(f"| {size} | " + " | ".join(cells) + " |")
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    about = f"seconds, min / median; {versions}, {os.cpu_count()} cores, load {load}"
    with capsys.disabled():
        print("", about, "", *lines, sep="\n")
    folder = os.environ.get("TEST_UNDECLARED_OUTPUTS_DIR")
    if folder:
        Path(folder, "rank_startup.json").write_text(json.dumps({"about": about, "results": results}, indent=1))
        draw(results, Path(folder, "rank_startup.svg"))
