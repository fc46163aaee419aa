"""Resolves the locked requirements anew: every lock of the repo, or only what `--upgrade-package` names.

usage: ./bazelw run //tools/bazel:lock -- [--upgrade] [--upgrade-package NAME]...
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tools.bazel import choose, registry


@dataclass(frozen=True)
class Lock:
    """One lock: `NAME.in` beside `NAME.txt`, and the options that resolve it."""

    path: str
    options: tuple[str, ...]


_TARGET = ("--python-version=3.11", "--python-platform=x86_64-manylinux_2_28", "--index-strategy=unsafe-best-match")
LOCKS = (
    Lock("third_party/python/cpu", _TARGET),
    # (only the index: a folder of CPU wheels would win over the CUDA build of the same version)
    Lock("third_party/python/cuda13", _TARGET),
    Lock("third_party/python/peers", (*_TARGET, "--constraints=cpu.txt")),
    Lock("tools/remote/requirements", _TARGET),
    Lock("tools/bazel/requirements", ("--universal", "--no-deps", "--python-version=3.10")),
)


def command(lock: Lock, uv: Path, extra: list[str]) -> list[str]:
    """The uv command line that resolves `lock`; it runs in the folder of the lock."""
    name = Path(lock.path).name
    common = ["--generate-hashes", "--annotation-style=line", "--no-header", "--no-config", "--quiet"]
    return [str(uv), "pip", "compile", f"{name}.in", f"--output-file={name}.txt", *common, *lock.options, *extra]


def environment(lock: Lock, settings: dict[str, str]) -> dict[str, str]:
    """The variables that the resolution of `lock` runs with."""
    drop = {"UV_FIND_LINKS"} if lock.path.endswith("cuda13") else set()
    return {key: value for key, value in {**os.environ, **settings}.items() if key not in drop}


def main(
    upgrade: Annotated[bool, typer.Option(help="take the newest version of everything")] = False,
    upgrade_package: Annotated[list[str] | None, typer.Option(help="take the newest version of this one")] = None,
) -> None:
    """Resolves the locked requirements anew."""
    root = Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY") or Path(__file__).resolve().parents[2])
    extra = (["--upgrade"] if upgrade else []) + [f"--upgrade-package={name}" for name in upgrade_package or []]
    uv, settings, console = choose.uv(), registry.uv_environment_here(), Console()
    for lock in LOCKS:
        with console.status(f"resolving {lock.path}.in"):
            subprocess.run(
                command(lock, uv, extra), cwd=(root / lock.path).parent, env=environment(lock, settings), check=True
            )
        console.print(f"{lock.path}.txt is resolved")


if __name__ == "__main__":
    typer.run(main)
