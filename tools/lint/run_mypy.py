"""Types of public code: mypy, strict, configured in pyproject.toml.

Checking torch alone takes ten seconds and more, checking our own code after it less than one. So the work is
split: `seed` checks only the third-party modules that the repo imports and keeps what mypy learnt; Bazel repeats that
when a wheel, the configuration or the set of modules changes. `check` starts from it.
"""

from __future__ import annotations

import json
import re
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tools.lint.command import run_python_module
from tools.lint.finding import Finding
from tools.lint.repo import Repo

_NO_STUBS = ("import-untyped", "import-not-found")


def public_files(repo: Repo) -> list[str]:
    """The Python files to check: all but test code."""
    return [str(path) for path in repo.python_files if str(path) not in repo.test_files]


def third_party_modules(repo: Repo) -> list[str]:
    """The modules outside the repo and the standard library that public code imports, sorted.

    `from torch.nn import functional` gives `torch.nn`: what it needs besides is loaded with it.
    """
    modules = {
        imported.module
        for path in public_files(repo)
        for imported in repo.imports.get(path, [])
        if not repo.is_first_party(imported.module)
    }
    return sorted(module for module in modules if module.partition(".")[0] not in sys.stdlib_module_names)


def seed(configuration: Path, modules: Sequence[str], output: Path) -> None:
    """Checks third-party modules and writes mypy's cache, a tar file, to `output`.

    Modules that are missing or have no types are left to `check`, which knows where they are imported.

    Raises:
      ValueError: mypy cannot run, such as with a faulty configuration.
    """
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch) / "cache"
        cache.mkdir()
        program = "\n".join(f"import {module}" for module in modules) or "pass"
        arguments = ["--config-file", str(configuration.resolve()), *_cache(cache), "-c", program]
        run_python_module("mypy", arguments, Path(scratch), accept=(0, 1))
        with tarfile.open(output, "w") as archive:
            archive.add(cache, arcname=".")


def check(repo: Repo, seeded: Path | None, scratch: Path) -> list[Finding]:
    """What mypy finds in the public code.

    Args:
      repo: the repo; mypy is configured by its pyproject.toml.
      seeded: the file that `seed` wrote, or None to start cold.
      scratch: an empty folder for mypy's cache.

    Raises:
      ValueError: mypy cannot run.
    """
    files = public_files(repo)
    if not files:
        return []
    if seeded is not None:
        with tarfile.open(seeded) as archive:
            # Python before 3.11.4 has no filters, and later ones warn without.
            archive.extraction_filter = getattr(tarfile, "data_filter", None)
            archive.extractall(scratch)
    done = run_python_module("mypy", [*_cache(scratch), "--output=json", *files], repo.root, accept=(0, 1))
    findings = []
    for line in done.stdout.splitlines():
        fault = json.loads(line)
        if fault["severity"] == "error":
            findings.append(
                Finding(
                    fault["file"], max(fault["line"], 0), f"{fault['message']} [{fault['code']}]", _mend(fault, repo)
                )
            )
    return sorted(findings)


def _cache(folder: Path) -> list[str]:
    return ["--cache-dir", str(folder), "--sqlite-cache", "--no-error-summary", "--show-error-codes"]


def _mend(fault: dict[str, str], repo: Repo) -> str:
    if fault["code"] in _NO_STUBS:
        named = re.search(r'"([\w.]+)"', fault["message"])
        if named and repo.is_first_party(named[1]):
            return "mend the import: the repo has no such file"
        return (
            "lock the package, or its types; where there are none, add the module, with the reason, to the overrides "
            "of [tool.mypy] in pyproject.toml"
        )
    if fault["hint"]:
        return fault["hint"].strip()
    return "mend the annotation; where mypy is wrong: `# type: ignore[code]  # why`"
