"""Runs the programs that the checks wrap."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.lint import distributions


def run(
    command: Sequence[str], cwd: Path, accept: Sequence[int], env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a program in `cwd` and returns its output.

    Raises:
      ValueError: its exit status is not in `accept`, that is, it could not do its work; with what it said.
    """
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode not in accept:
        said = (done.stderr or done.stdout).strip()
        raise ValueError(f"{' '.join(command[:4])} ... exited with status {done.returncode} in {cwd}:\n{said}")
    return done


def run_python_module(
    module: str, arguments: Sequence[str], cwd: Path, accept: Sequence[int]
) -> subprocess.CompletedProcess[str]:
    """Runs `python -m module` with the installed wheels, and nothing else, on its path.

    Raises:
      ValueError: its exit status is not in `accept`.
    """
    path = os.pathsep.join(str(folder) for folder in distributions.site_folders())
    return run([sys.executable, "-m", module, *arguments], cwd, accept, {**os.environ, "PYTHONPATH": path})
