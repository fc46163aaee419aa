"""The private apt, on a stub of apt-get that answers what the real one answers."""

import stat

import pytest

from tools.bazel import debian, relocate
from tools.bazel.progress import SetupError


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Replaces PATH by a folder; returns a function that adds a program to it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def add(name, script):
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    add("dpkg-deb", "exit 0")
    return add


@pytest.fixture
def debian_12(monkeypatch):
    release = {"ID": "debian", "VERSION_CODENAME": "bookworm", "PRETTY_NAME": "Debian 12"}
    monkeypatch.setattr(debian, "_os_release", lambda: release)
    return release


TARGETS = """\
case "$1" in indextargets)
    echo "Translations bookworm main http://mirror.test/translations/"
    echo "Packages bookworm-security main http://mirror.test/security/"
    echo "Packages nodistro main http://other.test/node/"
    echo "Packages bookworm main http://mirror.test/debian/"
    exit 0;; esac
"""


def test_mirror_is_the_machines_own(programs, debian_12):
    programs("apt-get", TARGETS)
    assert debian.mirror() == "http://mirror.test/debian/"


def test_no_debian_source(programs, debian_12):
    programs("apt-get", 'echo "Packages nodistro main http://other.test/node/"')
    with pytest.raises(SetupError, match=r"name no archive with bookworm/main: add one to /etc/apt/sources.list.d"):
        debian.mirror()


def test_other_distribution(programs, debian_12):
    debian_12.update(ID="fedora", PRETTY_NAME="Fedora 44")
    programs("apt-get", TARGETS)
    with pytest.raises(SetupError, match=r"this is Fedora 44.*Put bazel or bazelisk on PATH"):
        debian.mirror()


def test_private_state(programs, debian_12, tmp_path):
    programs("apt-get", TARGETS)
    debian.Apt(tmp_path / "apt")
    assert "http://mirror.test/debian/ forky main" in (tmp_path / "apt/sources.list").read_text()
    configuration = (tmp_path / "apt/apt.conf").read_text()
    assert f'Dir::State "{tmp_path}/apt";' in configuration
    assert "AllowUnauthenticated" not in configuration


def test_mirror_that_answers_404(programs, debian_12, tmp_path):
    programs(
        "apt-get", TARGETS + "echo 'E: Failed to fetch http://mirror.test/libc6.deb  404  Not Found' >&2; exit 100"
    )
    apt = debian.Apt(tmp_path / "apt")
    with pytest.raises(SetupError, match=r"(?s)fetching packages failed.*libc6.deb  404.*Nothing half-fetched is used"):
        apt.unpack(["libc6"], tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_wrong_signature(programs, debian_12, tmp_path):
    programs("apt-get", TARGETS + "echo 'E: The repository is not signed.' >&2; exit 100")
    with pytest.raises(SetupError, match=r"(?s)apt-get update of forky failed.*not signed"):
        debian.Apt(tmp_path / "apt").update()


@pytest.mark.parametrize(("found", "said"), [("8.1.0-1", "mirror has 8.1.0-1"), ("(none)", "mirror has none")])
def test_mirror_with_another_bazel(programs, debian_12, tmp_path, found, said):
    programs("apt-get", TARGETS + "exit 0")
    programs("apt-cache", f"echo '  Candidate: {found}'")
    with pytest.raises(SetupError, match=rf"asks for Bazel 7.7.1, this machine's Debian {said}"):
        relocate.apt_for(tmp_path / "bazel", "7.7.1")


def test_closure_is_cut_to_what_runs(programs, debian_12, tmp_path):
    programs("apt-get", TARGETS + "printf 'Inst libc6 (2.43)\\nInst gcc-16 (16)\\nConf libc6 (2.43)\\n'")
    assert debian.Apt(tmp_path / "apt").closure("bazel-bootstrap") == ["gcc-16", "libc6"]
    kept = ["bazel-skylib", "libc6", "libabsl20260526", "libgrpc++1.51t64", "libguava-java", "libzstd-jni1"]
    dropped = ["gcc-16", "openjdk-25-jdk-headless", "libmaven3-core-java", "libc6-dev", "python3", "perl", "libasan8"]
    assert [name for name in kept + dropped if relocate.wanted(name)] == kept
