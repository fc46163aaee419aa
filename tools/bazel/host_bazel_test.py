import subprocess
from pathlib import Path

import pytest

from testing.distributed.processes import has_ended
from tools.bazel import host_bazel

RULE = Path(host_bazel.__file__).with_name("host_bazel.bzl")
MODULE = """\
host_bazel = use_repo_rule("//:host_bazel.bzl", "host_bazel")

host_bazel(name = "host_bazel")
"""


class Server:
    """One Bazel server with an output root of its own."""

    def __init__(self, workspace, output):
        self.workspace = workspace
        self.startup = [*host_bazel.command(), f"--output_user_root={output}"]

    def __call__(self, *arguments):
        result = subprocess.run([*self.startup, *arguments], cwd=self.workspace, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return result.stdout.split()

    def launcher(self, *options):
        """The launcher as a build with further options sees it."""
        self("build", "@host_bazel//:bazel", *options)
        (base,) = self("info", "output_base")
        (found,) = Path(base).glob("external/*host_bazel/bazel")
        return found


@pytest.fixture(scope="module")
def bazel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bazel")
    workspace = folder / "workspace"
    workspace.mkdir()
    host_bazel.make_workspace(workspace)
    (workspace / "MODULE.bazel").write_text(MODULE)
    (workspace / "host_bazel.bzl").write_text(RULE.read_text())
    write = f"echo made >>{folder}/log; touch $@"
    (workspace / "BUILD.bazel").write_text(f'genrule(name = "made", outs = ["out"], cmd = "{write}", local = 1)\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HOME", raising=False)
        patch.delenv("USER", raising=False)
        server = Server(workspace, folder / "output")
        yield server
        (pid,) = server("info", "server_pid")
        server("shutdown")
    assert has_ended(int(pid)), "the server is still there"


def test_answers_for_a_workspace_of_its_own(bazel):
    assert "//:out" in bazel("query", "deps(//:made) + //:all + //:out", "--output=label")


def test_startup_options_come_first(bazel):
    (base,) = bazel("info", "output_base")
    assert Path(base).is_relative_to(bazel.workspace.parent / "output")


def test_the_launcher_starts_what_bazelw_names(bazel):
    launcher = bazel.launcher("--repo_env=TRAINYARD_BAZEL=env A=1 sh -c 'echo \"$A $*\"' 'a b'")
    said = subprocess.run([launcher, "--x", "query", "c d"], capture_output=True, text=True).stdout
    assert said == "1 --x query c d\n"


def test_started_without_bazelw_path_is_all_there_is_to_go_by(bazel, tmp_path):
    program = tmp_path / "it's here"
    program.mkdir()
    (program / "bazelisk").write_text('#!/bin/sh\necho "$USE_BAZEL_VERSION $*"\n')
    (program / "bazelisk").chmod(0o755)
    launcher = bazel.launcher("--repo_env=TRAINYARD_BAZEL=", f"--repo_env=PATH={program}")
    (version,) = bazel("info", "release")[1:]
    said = subprocess.run([launcher, "query", "a b"], capture_output=True, text=True).stdout
    assert said == f"{version} query a b\n"


def test_without_any_bazel_it_loads_and_says_so_when_it_is_used(bazel, tmp_path):
    launcher = bazel.launcher("--repo_env=TRAINYARD_BAZEL=", f"--repo_env=PATH={tmp_path}")
    result = subprocess.run([launcher, "query"], capture_output=True, text=True)
    assert result.returncode == 127
    assert "no Bazel to start" in result.stderr and "./bazelw" in result.stderr


def test_another_bazel_makes_nothing_else_anew(bazel):
    log = bazel.workspace.parent / "log"
    bazel("build", "//:made", "--repo_env=TRAINYARD_BAZEL=one")
    assert log.read_text() == "made\n"
    bazel("build", "//:made", "@host_bazel//:bazel", "--repo_env=TRAINYARD_BAZEL=two")
    assert log.read_text() == "made\n"


def test_the_user_of_runfiles_without_a_bazel_is_told_to_declare_it(monkeypatch, tmp_path):
    module = tmp_path / "x.runfiles/_main/tools/bazel/host_bazel.py"
    monkeypatch.setattr(host_bazel, "__file__", str(module))
    module.parent.mkdir(parents=True)
    with pytest.raises(ValueError, match="0 Bazels in .*x.runfiles; add `@host_bazel//:bazel`"):
        host_bazel.command()


def test_outside_bazel_it_is_bazelw(monkeypatch, tmp_path):
    monkeypatch.setattr(host_bazel, "__file__", str(tmp_path / "tools/bazel/host_bazel.py"))
    assert host_bazel.command() == (str(tmp_path / "bazelw"),)
