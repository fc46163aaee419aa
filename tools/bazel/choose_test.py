import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tools.bazel import bazelisk, choose, store
from tools.bazel.choose import Bazel
from tools.bazel.progress import SetupError

VERSION = "7.7.1"


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine with an empty cache and nothing of Bazel; returns a function that puts a program on PATH."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("BAZELW_WORLD", raising=False)
    monkeypatch.setattr(bazelisk, "provide", lambda version: None)
    monkeypatch.setattr(choose, "_assembled", lambda version: Bazel("assembled", "offline"))
    store.root().mkdir(parents=True)

    def add(name, script):
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return add


def answers(version, mod="exit 0"):
    return f'case "$1" in --version) echo "bazel {version}";; *) echo asked >>"$(dirname "$0")/log"; {mod};; esac'


def test_matching_bazel_on_path_with_a_registry(machine, tmp_path):
    program = machine("bazel", answers(VERSION))
    assert choose.bazel(VERSION) == Bazel(program, "online", environ={"USE_BAZEL_VERSION": VERSION})
    choose.bazel(VERSION)
    assert (tmp_path / "bin/log").read_text() == "asked\n"  # the answer is kept


def test_matching_bazel_on_path_without_a_registry(machine, monkeypatch, tmp_path):
    program = machine("bazel", answers(VERSION, "echo 'ERROR: Error accessing registry: Unknown host' >&2; exit 1"))
    monkeypatch.setattr(choose.relocate, "modules", lambda folder, version: (folder / "share").mkdir())
    chosen = choose.bazel(VERSION)
    assert (chosen.program, chosen.world) == (program, "offline")
    rc = choose.write_rc(chosen, tmp_path / "uv", {"UV_INDEX": "file:///a file:///b"}).read_text().splitlines()
    assert f'common "--override_module=rules_python={chosen.share}/rules/python"' in rc
    assert 'common "--repo_env=UV_INDEX=file:///a file:///b"' in rc
    assert 'common "--config=offline"' in rc


def test_workspace_that_does_not_load_is_no_missing_registry(machine):
    machine("bazel", answers(VERSION, "echo 'ERROR: MODULE.bazel:3: syntax error' >&2; exit 1"))
    with pytest.raises(SetupError, match="(?s)does not load this workspace.*syntax error"):
        choose.bazel(VERSION)


def test_another_version_on_path_is_not_taken(machine):
    machine("bazel", answers("8.0.0"))
    assert choose.bazel(VERSION).program == "assembled"


def test_bazelisk_on_path(machine):
    machine("bazel", answers("8.0.0"))
    program = machine("bazelisk", '[ "$USE_BAZEL_VERSION" = 7.7.1 ] && echo "bazel 7.7.1"')
    assert choose.bazel(VERSION).program == program


def test_bazelisk_that_cannot_download(machine):
    machine("bazelisk", "echo 'could not download Bazel' >&2; exit 1")
    assert choose.bazel(VERSION).program == "assembled"


def test_forced_world(machine, monkeypatch):
    monkeypatch.setenv("BAZELW_WORLD", "online")
    with pytest.raises(SetupError, match="BAZELW_WORLD=online, but Bazel 7.7.1 is not on PATH"):
        choose.bazel(VERSION)
    monkeypatch.setenv("BAZELW_WORLD", "onlin")
    with pytest.raises(SetupError, match="BAZELW_WORLD=onlin: it is online or offline"):
        choose.bazel(VERSION)


def test_rc_changes_its_name_with_its_content(machine, tmp_path):
    first = choose.write_rc(Bazel("b", "online"), tmp_path / "uv", {})
    assert first == choose.write_rc(Bazel("b", "online"), tmp_path / "uv", {})
    assert first != choose.write_rc(Bazel("b", "online"), tmp_path / "uv", {"SSL_CERT_FILE": "/ca"})


def test_rc_says_how_this_very_bazel_is_started(machine, tmp_path):
    chosen = Bazel("/it's/a b/bazel", "online", ('--startup=$x\\\\"',), {"USE_BAZEL_VERSION": VERSION})
    rc = choose.write_rc(chosen, tmp_path / "uv", {})
    (said,) = (line for line in rc.read_text().splitlines() if "TRAINYARD_BAZEL" in line)
    common, option = shlex.split(said)  # (Bazel reads quotes and backslashes as the shell does)
    assert common == "common"
    words = shlex.split(option.removeprefix("--repo_env=TRAINYARD_BAZEL="))
    assert words[:2] == ["env", f"USE_BAZEL_VERSION={VERSION}"]
    assert tuple(words[2:]) == choose.command(chosen, rc) == (chosen.program, *chosen.startup, f"--bazelrc={rc}")


def test_rc_of_a_cache_below_tmp_is_seen_in_the_sandbox(machine, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", tempfile.mkdtemp(dir="/tmp"))
    store.root().mkdir()
    rc = choose.write_rc(Bazel("b", "offline", share=store.root() / "x/share"), store.root() / "uv", {})
    assert f'common "--sandbox_add_mount_pair={store.root()}"' in rc.read_text().splitlines()
    shutil.rmtree(store.root().parent)


def test_bazelw_without_python(tmp_path):
    for tool in ("dirname", "pwd"):
        os.symlink(f"/usr/bin/{tool}", tmp_path / tool)
    bazelw = Path(choose.__file__).resolve().parents[2] / "bazelw"
    result = subprocess.run(["/bin/sh", str(bazelw)], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert result.returncode == 1
    assert f"no Python 3.10 or later on PATH ({tmp_path}): install python3.11" in result.stderr


def test_forcing_online_asks_for_a_download_though_one_was_assembled(machine, monkeypatch):
    choose._entry(f"bazel-{VERSION}").mkdir()
    monkeypatch.setattr(bazelisk, "provide", lambda version: machine("downloaded", answers(version)))
    assert choose.bazel(VERSION).program == "assembled"  # the decision is kept
    monkeypatch.setenv("BAZELW_WORLD", "online")
    assert choose.bazel(VERSION).program.endswith("/downloaded")
