import base64
import hashlib
import http.server
import platform
import socket
import tarfile
import threading

import pytest

from tools.bazel import bazelisk
from tools.bazel.progress import SetupError

MEMBER = f"package/bazelisk-{platform.system().lower()}_{ {'x86_64': 'amd64', 'aarch64': 'arm64'}[platform.machine()] }"


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """A machine whose npm packs a bazelisk made of the given shell script."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def pack(script):
        program = tmp_path / "program"
        program.write_text(f"#!/bin/sh\n{script}\n")
        archive = tmp_path / "bazelisk.tgz"
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(program, MEMBER)
        (tmp_path / "bin/npm").write_text(f"#!/bin/sh\ncp {archive} .\n")
        (tmp_path / "bin/npm").chmod(0o755)
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        monkeypatch.setattr(bazelisk, "_INTEGRITY", f"sha512-{digest}")

    return pack


def test_bazelisk_that_can_download(npm, tmp_path):
    npm('echo "bazel $USE_BAZEL_VERSION"')
    program = bazelisk.provide("7.7.1")
    assert program is not None
    assert bazelisk.gives(program, "7.7.1")


def test_bazelisk_out_of_reach_of_releases(npm):
    npm("exit 1")
    assert bazelisk.provide("7.7.1") is None


def test_wrong_integrity_is_refused(npm, monkeypatch, tmp_path):
    npm("echo planted")
    monkeypatch.setattr(bazelisk, "_INTEGRITY", "sha512-other")
    with pytest.raises(SetupError, match="expected sha512-other; nothing of it is used"):
        bazelisk.provide("7.7.1")
    assert not list((tmp_path / "cache").rglob("bazelisk"))


def test_npm_without_its_registry(npm, tmp_path):
    npm("unused")
    (tmp_path / "bin/npm").write_text("#!/bin/sh\nexit 1\n")
    assert bazelisk.provide("7.7.1") is None


def test_gives_waits_no_longer_than_asked(npm, tmp_path):
    hangs = tmp_path / "bin/bazel"
    hangs.write_text("#!/bin/sh\nexec sleep 60\n")
    hangs.chmod(0o755)
    assert not bazelisk.gives(str(hangs), "7.7.1", timeout_s=0.2)


def downloading(address):
    """A bazelisk that says where it downloads from, tries for a while, and succeeds in the end."""
    tries = "for i in 1 2 3 4 5 6 7 8; do sleep 0.25; done"
    return f'echo "2026/01/01 Downloading {address}..." >&2; {tries}; echo "bazel 7.7.1"'


@pytest.fixture
def server():
    """The address of a server on the loopback that knows no file, as releases behind a login."""
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}/bazel"
        found.shutdown()


def test_download_from_where_nothing_answers_is_ended(npm):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    npm(downloading(f"http://127.0.0.1:{port}/bazel"))
    assert bazelisk.provide("7.7.1") is None  # though it would have said its version


def test_download_from_where_somebody_answers_is_waited_for(npm, server):
    npm(downloading(server))
    assert bazelisk.provide("7.7.1") is not None
