"""Runs selected tests with the user's own Bazel, and says which of them need another host."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

from tools.affected.selection import SelectError, Test
from tools.affected.settings import Settings

# What `bazel run` and the start of a Python program add to the environment: Bazel would see another client in it.
_ADDED = (
    "BUILD_WORKING_DIRECTORY",
    "BUILD_WORKSPACE_DIRECTORY",
    "PYTHONPATH",
    "RUNFILES_DIR",
    "RUNFILES_MANIFEST_FILE",
)


@dataclasses.dataclass(frozen=True)
class Run:
    """One call of `bazel test`."""

    flags: tuple[str, ...]
    labels: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is run here.

    Attributes:
      runs: calls, one after another.
      elsewhere: tests that need a host which the flags do not name, by the flag of the smallest.
    """

    runs: tuple[Run, ...]
    elsewhere: Mapping[str, tuple[str, ...]]


def plan(tests: Iterable[Test], settings: Settings, flags: Iterable[str]) -> Plan:
    """Divides tests among calls of Bazel.

    A flag that says which devices the host has (`--config=gpu_x4`) goes to the tests that count those devices and to no
    others: it would give them another configuration than the one they were selected in. With a flag of `everywhere`
    (`--config=remote`) one call takes all.

    Args:
      tests: in the order to name them.
      settings: the workspace's.
      flags: the user's.
    """
    given = _joined(flags)
    tests = list(tests)
    if tests and any(f"--config={name}" in given for name in settings.everywhere):
        return Plan((Run(given, tuple(test.label for test in tests)),), {})
    host_flags = settings.host_flags()
    host = next((flag for flag in reversed(given) if flag in host_flags), None)
    others = tuple(flag for flag in given if flag not in host_flags)
    runs: dict[tuple[str, ...], list[str]] = defaultdict(list)
    elsewhere: dict[str, list[str]] = defaultdict(list)
    for name in settings.configurations:
        for test in tests:
            if test.configuration != name:
                continue
            hosts = settings.hosts(test) or [flag for flag in settings.flags(name) if flag in host_flags]
            if not hosts:
                runs[(*settings.flags(name), *others)].append(test.label)
            elif host in hosts:
                runs[(*settings.flags(name, host), *others)].append(test.label)
            else:
                elsewhere[hosts[0]].append(test.label)
    return Plan(
        tuple(Run(flags, tuple(labels)) for flags, labels in runs.items()),
        {flag: tuple(labels) for flag, labels in sorted(elsewhere.items())},
    )


def missing(plan: Plan) -> list[str]:
    """Lines about the tests that are not run here; none if all are."""
    count = sum(len(labels) for labels in plan.elsewhere.values())
    if not count:
        return []
    lines = [f"NOT run here: {count} that need a host with other hardware. There, pass after `--`"]
    for flag, labels in plan.elsewhere.items():
        lines += [f"  {flag} for", *(f"    {label}" for label in labels)]
    return lines


def bazel_of(workspace: Path) -> tuple[str, ...]:
    """What starts Bazel in a workspace: its own `bazelw`, or `bazel` where it has none."""
    wrapper = workspace / "bazelw"
    return (str(wrapper),) if os.access(wrapper, os.X_OK) else ("bazel",)


def run(
    plan: Plan, workspace: Path, bazel: Sequence[str], say: Callable[[str], None], output: IO[str] | None = None
) -> int:
    """Makes the calls of a plan, all of them whatever comes of the first.

    Args:
      plan: what is run.
      workspace: where.
      bazel: what starts Bazel.
      say: told each call.
      output: where Bazel's standard output goes; None is ours.

    Returns:
      Bazel's exit status: that of the first call that failed, else 0.

    Raises:
      SelectError: Bazel cannot be started.
    """
    environ = {name: value for name, value in os.environ.items() if name not in _ADDED}
    status = 0
    for call in plan.runs:
        with tempfile.NamedTemporaryFile("w", prefix="affected-", suffix=".labels") as file:
            file.write("".join(f"{label}\n" for label in call.labels))
            file.flush()
            command = [*bazel, "test", *call.flags, f"--target_pattern_file={file.name}"]
            say(f"{' '.join(command[:-1])} ({len(call.labels)} tests)")
            status = status or _wait(command, workspace, environ, output)
    return status


def _wait(command: list[str], folder: Path, environ: Mapping[str, str], output: IO[str] | None) -> int:
    # An interrupt reaches Bazel, too: it stops the tests and ends with 8. To be waited for, not to die of.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        return subprocess.run(command, cwd=folder, env=environ, stdout=output, check=False).returncode
    except OSError as error:
        raise SelectError(f"cannot start {command[0]} in {folder}: {error.strerror}; put bazel on PATH") from error
    finally:
        signal.signal(signal.SIGINT, before)


def _joined(flags: Iterable[str]) -> tuple[str, ...]:
    """`--config gpu_x4` as `--config=gpu_x4`."""
    found: list[str] = []
    for flag in flags:
        if found and found[-1] == "--config":
            found[-1] = f"--config={flag}"
        else:
            found.append(flag)
    return tuple(found)
