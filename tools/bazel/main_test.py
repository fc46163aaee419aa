import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.bazel import choose, main, relocate, wheels

TOOLS = Path(main.__file__).parent
VERSION = "7.7.1"


def write_program(path, script):
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


class Machine:
    """A machine with a clone of the repo, Bazel and uv provided, and a PATH whose python3.11 is a shim."""

    def __init__(self, folder):
        self.folder = folder
        self.repo = folder / "repo"
        self.cache = folder / "cache/trainyard"
        self.environ = {
            "PATH": f"{folder}/bin:/usr/bin:/bin",
            "HOME": f"{folder}/home",
            "USER": "somebody",
            "XDG_CACHE_HOME": f"{folder}/cache",
        }
        self.decisions = 0
        self.started = []

    def call(self):
        """Runs bazelw's Python part in this process; returns what it would become, and whether it decided anew."""
        before = self.decisions
        main.main([])
        return self.started[-1], self.decisions > before

    def settle(self):
        """Calls until the decision is kept."""
        self.call()
        self.call()
        assert not self.call()[1]

    def bazelw(self, *arguments):
        command = [self.repo / "bazelw", *arguments]
        result = subprocess.run(command, env=self.environ, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return result.stdout.splitlines()


@pytest.fixture
def machine(tmp_path, monkeypatch):
    found = Machine(tmp_path)
    for folder in ("bin", "home", "repo/tools/bazel"):
        (tmp_path / folder).mkdir(parents=True)
    for source in (*TOOLS.glob("*.py"), TOOLS / "requirements.txt"):
        shutil.copy(source, found.repo / "tools/bazel")
    shutil.copy(TOOLS.parents[1] / "bazelw", found.repo)
    (found.repo / ".bazelversion").write_text(f"{VERSION}\n")
    write_program(tmp_path / "bin/python3.11", f'echo asked >>{tmp_path}/shim; PATH=/shims exec {sys.executable} "$@"')

    def assemble(folder, version):
        write_program(folder / "bazel", 'printf "%s\\n" "$PATH" "$HOME" "$USER" "$@"')

    def fetch(name, folder, find_pip):
        (folder / f"{name}.data/scripts").mkdir(parents=True)
        (folder / f"{name}.data/scripts" / name).touch()

    decide = main.decide

    def counted():
        found.decisions += 1
        return decide()

    for key in [key for key in os.environ if key.startswith(("BAZEL", "PIP_", "UV_", "XDG_", "SSL_"))]:
        monkeypatch.delenv(key)
    for key, value in found.environ.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(relocate, "assemble", assemble)
    monkeypatch.setattr(wheels, "fetch", fetch)
    monkeypatch.setattr(main, "ROOT", str(found.repo))
    monkeypatch.setattr(main, "decide", counted)
    monkeypatch.setattr(choose, "ROOT", found.repo)
    monkeypatch.setattr(choose, "__file__", str(found.repo / "tools/bazel/choose.py"))
    monkeypatch.setattr(os, "execv", lambda program, command: found.started.append(command))
    for version in (VERSION, "7.7.2"):
        choose._assembled(version)
    (found.cache / "kept").mkdir()  # (by bazelw, before it starts Python)
    return found


def test_the_first_call_and_the_later_ones_start_the_same_bazel(machine):
    machine.call()  # provides uv
    first, second, third = (machine.bazelw("query", "a b") for _ in range(3))
    assert first == second == third
    assert first[:3] == [machine.environ[key] for key in ("PATH", "HOME", "USER")]  # not as the shim would have them
    assert re.fullmatch(r"--bazelrc=.*/rc-\w+", first[-3])
    assert first[-2:] == ["query", "a b"]
    assert (machine.folder / "shim").read_text() == "asked\n"
    assert len(list(machine.cache.glob("kept/start-*"))) == 1


def test_a_later_call_imports_next_to_nothing(machine):
    machine.settle()
    command = [sys.executable, "-E", "-S", "-B", "-X", "importtime", machine.repo / "tools/bazel/main.py"]
    said = subprocess.run(command, env=machine.environ, capture_output=True, text=True, check=True).stderr
    imported = {line.rpartition("|")[2].strip() for line in said.splitlines() if line.startswith("import time:")}
    assert "tools.bazel.kept" in imported
    assert not imported & {"pathlib", "re", "hashlib", "subprocess", "json", "dataclasses", "tools.bazel.choose"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("BAZELW_WORLD", "offline"),
        ("PIP_INDEX_URL", "file:///other"),
        ("UV_INDEX", "file:///other"),
        ("SSL_CERT_FILE", "/ca.pem"),
        ("PATH", "/usr/bin:/bin"),
        ("HOME", "/nowhere"),
        ("XDG_CONFIG_HOME", "/nowhere"),
    ],
)
def test_another_environment_decides_anew(machine, monkeypatch, key, value):
    machine.settle()
    with monkeypatch.context() as patch:
        patch.setenv(key, value)
        assert machine.call()[1]
        machine.settle()
    machine.settle()
    monkeypatch.setenv(key, value)
    assert not machine.call()[1]  # each environment has its own


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("repo/.bazelversion", "7.7.2\n"),
        ("repo/tools/bazel/bazelisk.py", ""),
        ("repo/tools/bazel/another.py", ""),
        ("home/.config/pip/pip.conf", "[global]\nindex-url = file:///other\n"),
        ("cache/trainyard/world.json", "{}"),
    ],
)
def test_a_file_that_decides_decides_anew(machine, path, content):
    machine.settle()
    (machine.folder / path).parent.mkdir(parents=True, exist_ok=True)
    (machine.folder / path).write_text(content)
    command, anew = machine.call()
    assert anew
    assert ("7.7.2" in command[0]) == path.endswith("version")
    rc = Path(command[-1].removeprefix("--bazelrc=")).read_text()
    assert ('"--repo_env=UV_DEFAULT_INDEX=file:///other"' in rc) == path.endswith("pip.conf")


@pytest.mark.parametrize("lost", ["rc-*", "uv-*/.complete", "bazel-7.7.1-*/.complete"])
def test_what_was_lost_is_provided_again(machine, lost):
    machine.settle()
    (path,) = machine.cache.glob(lost)
    path.unlink()
    assert machine.call()[1]
    assert path.exists()


def test_a_script_on_path_is_asked_each_time(machine):
    machine.settle()
    asked = machine.folder / "asked"
    write_program(machine.folder / "bin/bazel", f"echo asked >>{asked}; echo bazel 6.0.0")
    assert [machine.call()[1] for _ in range(4)] == [True] * 4
    assert asked.read_text() == "asked\n" * 4


def test_an_interpreter_that_is_gone_is_looked_for_again(machine):
    machine.call()
    machine.bazelw()
    python = machine.cache / "kept/python"
    assert python.read_text() == f"{machine.environ['PATH']}\n{sys.executable}\n"
    python.write_text(f"{machine.environ['PATH']}\n/nowhere/python3.11\n")
    machine.bazelw()
    assert python.read_text().endswith(f"{sys.executable}\n")


def test_another_path_looks_for_its_own_interpreter(machine):
    machine.call()
    machine.bazelw()
    machine.environ["PATH"] += ":/nowhere"
    machine.bazelw()
    assert (machine.folder / "shim").read_text() == "asked\n" * 2


@pytest.mark.parametrize("content", [b"", b"not marshal", b"N"], ids=str)
def test_a_torn_decision_is_taken_anew(machine, content):
    machine.settle()
    (kept_file,) = machine.cache.glob("kept/start-*")
    kept_file.write_bytes(content)
    assert machine.call()[1]


def test_where_nothing_can_be_kept_each_call_decides(machine):
    machine.settle()
    shutil.rmtree(machine.cache / "kept")
    (machine.cache / "kept").touch()
    assert machine.call() == machine.call() == (machine.started[0], True)
    assert machine.bazelw("query")[-1] == "query"


def test_two_clones_do_not_share_a_decision(machine, monkeypatch):
    machine.settle()
    other = machine.folder / "other"
    shutil.copytree(machine.repo, other)
    (other / ".bazelversion").write_text("7.7.2\n")
    for module, root in ((main, str(other)), (choose, other)):
        monkeypatch.setattr(module, "ROOT", root)
    assert "7.7.2" in machine.call()[0][0]
