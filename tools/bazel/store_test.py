import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tools.bazel import kept, store
from tools.bazel.progress import SetupError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "trainyard"


def fill(folder: Path) -> None:
    (folder / "content").write_text("whole")


def test_builds_once(cache):
    built = []

    def build(folder):
        built.append(folder)
        fill(folder)

    assert store.ensure("x", build, needs_mb=0) == store.ensure("x", build, needs_mb=0) == cache / "x"
    assert built == [cache / "x"]


def test_interrupted_build_is_removed_and_built_again(cache, capsys):
    def interrupted(folder):
        (folder / "half").write_text("torn")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.ensure("x", interrupted, needs_mb=0)
    folder = store.ensure("x", fill, needs_mb=0)
    assert (folder / "content").read_text() == "whole"
    assert not (folder / "half").exists()
    assert f"removing what an interrupted set-up left in {folder}" in capsys.readouterr().err


def test_killed_build_is_removed_and_built_again(cache):
    script = """
        import os, signal
        from tools.bazel import kept, store
        def build(folder):
            (folder / "half").write_text("torn")
            os.kill(os.getpid(), signal.SIGKILL)
        store.ensure("x", build, needs_mb=0)
    """
    root = Path(store.__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=root, check=False)
    assert killed.returncode == -9
    assert (cache / "x/half").exists()
    folder = store.ensure("x", fill, needs_mb=0)
    assert sorted(path.name for path in folder.iterdir()) == [".complete", "content"]


def test_two_at_once_build_once(cache):
    script = """
        import os, time
        from tools.bazel import kept, store
        def build(folder):
            (folder / f"by-{os.getpid()}").touch()
            time.sleep(0.5)
        store.ensure("x", build, needs_mb=0)
    """
    root = Path(store.__file__).parents[2]
    command = [sys.executable, "-c", textwrap.dedent(script)]
    both = [subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len(list((cache / "x").glob("by-*"))) == 1
    assert sum("another set-up is at work" in error for error in errors) == 1


def test_too_little_space_is_said_before_the_build(cache):
    with pytest.raises(SetupError, match=r"MB free, x needs 1000000000 MB: free some, or set XDG_CACHE_HOME"):
        store.ensure("x", lambda folder: pytest.fail("built"), needs_mb=10**9)


@pytest.mark.parametrize(("code", "said"), [(errno.ENOSPC, "no space left below"), (errno.EROFS, "cannot write to")])
def test_disk_errors_name_folder_and_mend(cache, code, said):
    def build(folder):
        raise OSError(code, os.strerror(code))

    with pytest.raises(SetupError, match=f"{said} {cache}.*XDG_CACHE_HOME"):
        store.ensure("x", build, needs_mb=0)


def test_folder_that_is_a_file(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(SetupError, match="cannot write to .*file/trainyard"):
        store.ensure("x", fill, needs_mb=0)


def test_home_without_environment(monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert store.root() == Path(os.path.expanduser(f"~{kept.user()}")) / ".cache/trainyard"
