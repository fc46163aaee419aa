"""Format and lint of Python files: ruff, configured in pyproject.toml."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tools.lint.command import run_python_module
from tools.lint.finding import FIX, Finding


def check(root: Path) -> list[Finding]:
    """What ruff finds in the Python files below `root`.

    Raises:
      ValueError: ruff cannot run, such as with a faulty pyproject.toml.
    """
    return sorted(_format(root) + _lint(root))


def fix(root: Path) -> None:
    """Applies ruff's safe fixes, then its format.

    Raises:
      ValueError: ruff cannot run.
    """
    run_python_module("ruff", ["check", "--fix", "--quiet", "--no-cache", "."], root, accept=(0, 1))
    run_python_module("ruff", ["format", "--quiet", "--no-cache", "."], root, accept=(0, 2))


def _format(root: Path) -> list[Finding]:
    return [
        Finding(_path(fault, root), fault["location"]["row"], "is not in the format of ruff", FIX)
        for fault in _faults(["format", "--check"], root)
        if fault["code"] == "unformatted"  # the others are syntax errors, which the lint reports, too
    ]


def _lint(root: Path) -> list[Finding]:
    findings = []
    for fault in _faults(["check"], root):
        path, code, fix = _path(fault, root), fault["code"], fault["fix"] or {}
        if fix.get("applicability") == "safe":
            mend = f"{fix['message']}: {FIX}"
        elif fix:
            mend = f"{fix['message']} (check it: `ruff check --fix --unsafe-fixes {path}`)"
        else:
            mend = "make it valid Python" if code == "invalid-syntax" else f"see `ruff rule {code}`"
        findings.append(Finding(path, fault["location"]["row"], f"{code}: {fault['message']}", mend))
    return findings


def _faults(command: list[str], root: Path) -> list[dict[str, Any]]:
    done = run_python_module("ruff", [*command, "--output-format=json", "--no-cache", "."], root, (0, 1, 2))
    if done.returncode and not done.stdout:
        raise ValueError(f"ruff {command[0]} could not run:\n{done.stderr.strip()}")
    faults: list[dict[str, Any]] = json.loads(done.stdout or "[]")
    return faults


def _path(fault: dict[str, Any], root: Path) -> str:
    return Path(fault["filename"]).relative_to(root.resolve()).as_posix()
