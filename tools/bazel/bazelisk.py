"""Bazelisk: whether one on PATH gives the right Bazel, and one from npm where npm is there."""

from __future__ import annotations

import base64
import hashlib
import os
import platform
import shutil
import subprocess
import tarfile
from pathlib import Path

from tools.bazel import store
from tools.bazel.progress import SetupError, say, step

_VERSION = "1.28.1"
_INTEGRITY = "sha512-K21x83NXOtd0yb2qzjMES3UV4xEWZ1q1vnXFhADA1u7IoiMVQkJAVQRK3oZ5txpnrGafY15HS+YYr2nmsEP4Tg=="


def gives(program: str, version: str, timeout_s: float = 120) -> bool:
    """Whether `program` (bazel or bazelisk) is, or can download, Bazel `version`."""
    environ = {**os.environ, "HOME": str(store.home()), "USE_BAZEL_VERSION": version}
    try:
        result = subprocess.run(
            [program, "--version"], env=environ, capture_output=True, text=True, check=False, timeout=timeout_s
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return result.returncode == 0 and result.stdout.split()[:2] == ["bazel", version]


def provide(version: str) -> str | None:
    """A bazelisk from npm that can download Bazel `version`; None where npm or Bazel's releases are out of reach."""
    npm = shutil.which("npm")
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine())
    if npm is None or machine is None:
        return None

    def build(folder: Path) -> None:
        environ = {**os.environ, "HOME": str(store.home())}
        command = [npm, "pack", "--silent", f"@bazel/bazelisk@{_VERSION}"]
        with step(f"fetching bazelisk {_VERSION} (npm)"):
            result = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
        if result.returncode:
            return  # (an entry without a program: npm is there, its registry is not)
        (archive,) = folder.glob("*.tgz")
        digest = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if digest != _INTEGRITY:
            raise SetupError(f"{archive.name} from npm has {digest}, expected {_INTEGRITY}; nothing of it is used")
        with tarfile.open(archive) as tar:
            content = tar.extractfile(f"package/bazelisk-{platform.system().lower()}_{machine}")
            (folder / "bazelisk").write_bytes(content.read() if content else b"")
        (folder / "bazelisk").chmod(0o755)
        archive.unlink()

    program = store.ensure(f"bazelisk-{_VERSION}", build, needs_mb=100) / "bazelisk"
    if not program.exists():
        return None
    with step(f"asking bazelisk for Bazel {version}"):
        downloaded = gives(str(program), version)
    if not downloaded:
        say("Bazel's releases cannot be reached from here: assembling it from Debian's packages")
        return None
    return str(program)
