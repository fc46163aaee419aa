"""Format and lint of BUILD, .bzl and MODULE.bazel files: buildifier."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from tools.lint import tree
from tools.lint.command import run
from tools.lint.finding import FIX, Finding


def find() -> Path | None:
    """The program: of the runfiles under Bazel, else the one on PATH; None where there is none."""
    folder = tree.runfiles()
    if folder is None:
        found = shutil.which("buildifier")
        return Path(found) if found else None
    return next(iter(sorted(folder.glob("*buildifier/buildifier"))), None)


def files_of(root: Path) -> list[str]:
    """The files that buildifier knows, relative to `root`, those of nested modules included."""
    return [
        str(file)
        for file in tree.source_files(root)
        if file.suffix in (".bazel", ".bzl") or file.name in ("BUILD", "WORKSPACE")
    ]


def check(program: Path, root: Path, files: Sequence[str]) -> list[Finding]:
    """What buildifier finds in `files` below `root`.

    Raises:
      ValueError: buildifier cannot run.
    """
    if not files:
        return []
    arguments = ["--mode=check", "--lint=warn", "--format=json", *files]
    done = run([str(program), *arguments], root, accept=(0, 1, 4))
    findings = []
    for file in json.loads(done.stdout)["files"]:
        path = file["filename"]
        if not file["valid"]:
            findings.append(Finding(path, 0, f"is not valid Starlark: {done.stderr.strip()}", "mend the syntax"))
        elif not file["formatted"]:
            findings.append(Finding(path, 0, "is not in the format of buildifier", FIX))
        for warning in file["warnings"] or []:
            mend = f"see {warning['url']}" if warning["url"] else "mend it by hand"
            if warning.get("autoFixable"):
                mend = FIX
            findings.append(
                Finding(path, warning["start"]["line"], f"{warning['category']}: {warning['message']}", mend)
            )
    return sorted(findings)


def fix(program: Path, root: Path, files: Sequence[str]) -> None:
    """Formats the files and applies the fixes that buildifier has.

    Raises:
      ValueError: buildifier cannot run.
    """
    if files:
        run([str(program), "--mode=fix", "--lint=fix", *files], root, accept=(0, 1, 4))
