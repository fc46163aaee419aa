"""Bazelisk: whether one on PATH gives the right Bazel, and one from npm where npm is there."""

from __future__ import annotations

import base64
import hashlib
import os
import platform
import re
import shutil
import ssl
import subprocess
import tarfile
import threading
import urllib.error
import urllib.request
from pathlib import Path

from tools.bazel import store
from tools.bazel.progress import SetupError, say, step

_VERSION = "1.28.1"
_INTEGRITY = "sha512-K21x83NXOtd0yb2qzjMES3UV4xEWZ1q1vnXFhADA1u7IoiMVQkJAVQRK3oZ5txpnrGafY15HS+YYr2nmsEP4Tg=="


def gives(program: str, version: str, timeout_s: float = 120) -> bool:
    """Whether `program` (bazel or bazelisk) is, or can download, Bazel `version`."""
    environ = {**os.environ, "HOME": str(store.home()), "USE_BAZEL_VERSION": version}
    try:
        process = subprocess.Popen(
            [program, "--version"], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    except OSError:
        return False
    with process:
        watcher = threading.Thread(target=_give_up_early, args=(process,), daemon=True)
        watcher.start()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
        watcher.join(timeout_s)
        assert process.stdout is not None
        said = process.stdout.read()
    return process.returncode == 0 and said.split()[:2] == ["bazel", version]


def _give_up_early(process: subprocess.Popen[str]) -> None:
    """Ends a bazelisk that downloads from where nothing can be reached: by itself it tries for 16 s and more."""
    assert process.stderr is not None
    for line in process.stderr:
        address = re.search(r"Downloading (https?://\S+?)(\.\.\.)?$", line.strip())
        if address and not _reachable(address[1]):
            process.kill()


def _reachable(address: str) -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:
        # (a certificate that only this Python does not know is no reason to give up)
        return isinstance(error.reason, ssl.SSLError)
    except OSError:
        return False
    return True


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
