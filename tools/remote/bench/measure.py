"""What is measured: workloads, the ways in which they run, and one run."""

from __future__ import annotations

import dataclasses
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tools.remote.timeline import build_events
from tools.remote.timeline.attempts import PHASES, Attempt

LOCAL = "local"
# Each with what must have happened to the tests: a number of something else would be worth nothing.
CASES = {
    "first run": "ran",
    "run again": "ran",
    "nothing changed": "cached",
    "new checkout": "cached",
    "tests touched": "ran",
}
_SMALL = "tools/remote/bench/small"


class MeasureError(Exception):
    """A run did not do what it was measured for."""


@dataclasses.dataclass(frozen=True)
class Workload:
    """Tests that are run together.

    Attributes:
      name: for readers.
      target: what Bazel is told to test.
      files: the tests' own, relative to the repo's root; touching them makes all tests run again.
    """

    name: str
    target: str
    files: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
      workload: its name.
      how: LOCAL, or the number of workers.
      case: one of CASES.
      seconds: of Bazel's command, wall time.
      attempts: how many there were.
      phases: seconds of each phase, the mean over attempts that ran; {} where all was cached.
    """

    workload: str
    how: str
    case: str
    seconds: float
    attempts: int
    phases: dict[str, float]


TORCH = Workload("one torch test", "//testing/tolerances:tolerances_test", ("testing/tolerances/tolerances_test.py",))


def small_tests(clone: Path, count: int) -> Workload:
    """Writes so many tests of a millisecond each into a clone."""
    folder = clone / _SMALL
    folder.mkdir(parents=True)
    build = ['load("//testing:defs.bzl", "trainer_test")']
    files = []
    for i in range(count):
        name = f"small_{i}_test"
        (folder / f"{name}.py").write_text(f"def test_sum():\n    assert sum(range({i + 1})) == {i * (i + 1) // 2}\n")
        build.append(f'trainer_test(name = "{name}", srcs = ["{name}.py"], hardware = ["cpu"], tier = "unit")')
        files.append(f"{_SMALL}/{name}.py")
    (folder / "BUILD.bazel").write_text("\n\n".join(build) + "\n")
    return Workload(f"{count} small tests", f"//{_SMALL}:all", tuple(files))


def run_cases(bazel: Sequence[str], clone: Path, workload: Workload, how: str, flags: Sequence[str]) -> list[Row]:
    """Runs each case once, in order; the clone's files are touched.

    Args:
      bazel: the command, with its startup options.
      clone: where it runs.
      workload: what it runs.
      how: for the rows.
      flags: that make it run so.

    Raises:
      MeasureError: a test failed, or ran where a cached result is measured, or the other way round.
    """
    rows = []
    for case, expected in CASES.items():
        if case in ("first run", "new checkout"):
            _run([*bazel, "clean"], clone)
        if case == "new checkout" and how == LOCAL:
            continue  # (nobody else has its results)
        if case == "tests touched":
            for name in workload.files:
                with (clone / name).open("a") as file:
                    file.write(f"# touched at {time.time()}\n")
        again = ["--nocache_test_results"] if case == "run again" else []
        events = clone.parent / "events.json"
        begin = time.monotonic()
        _run([*bazel, "test", workload.target, *flags, *again, f"--build_event_json_file={events}"], clone)
        seconds = time.monotonic() - begin
        attempts, _ = build_events.read(events)
        strange = [each for each in attempts if each.cached != (expected == "cached")]
        if strange:
            raise MeasureError(f"{case}, {how}: {strange[0].name} came from {strange[0].place}, not {expected}")
        rows.append(Row(workload.name, how, case, seconds, len(attempts), _means(attempts)))
    return rows


def _means(attempts: Sequence[Attempt]) -> dict[str, float]:
    ran = [each for each in attempts if not each.cached]
    return {name: sum(each.seconds(name) or 0.0 for each in ran) / len(ran) for name in PHASES if ran}


def _run(command: Sequence[str], folder: Path) -> None:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        raise MeasureError(
            f"{' '.join(command)}: exit {result.returncode}\n{result.stdout[-2000:]}{result.stderr[-2000:]}"
        )
