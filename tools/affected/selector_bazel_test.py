"""The selector with a real Bazel and a real git, on a workspace of shell tests."""

import os
import subprocess
from pathlib import Path

import pytest

from tools.affected.private_bazel import PrivateBazel
from tools.affected.selection import SelectError
from tools.affected.selector import Options, select, selecting
from tools.bazel import host_bazel

# (one command has an escape sequence: Bazel strips those from what it prints, be it text or not)
BUILD = """\
load(":rule.bzl", "shell_test")

filegroup(name = "lib", srcs = ["lib.txt"])

genrule(name = "made", srcs = ["in.txt"], outs = ["made.txt"], cmd = "sort $< > $@ # \\033[1m")

shell_test(name = "plain_test", tags = ["unit"])

shell_test(name = "lib_test", data = [":lib"], place = "here")

shell_test(name = "made_test", data = [":made"])

shell_test(name = "mode_test", mode = "one", tags = ["unit"])

shell_test(name = "linked_test", data = ["@linking//:linked.txt"])

shell_test(name = "away_test", target_compatible_with = ["@platforms//:incompatible"])
"""
RULE = """\
def _impl(ctx):
    program = ctx.actions.declare_file(ctx.label.name + ".sh")
    ctx.actions.write(program, "#!/bin/sh\\n", is_executable = True)
    places = {ctx.attr.place: ctx.files.data[0]} if ctx.attr.place else {}
    return [
        DefaultInfo(executable = program, runfiles = ctx.runfiles(ctx.files.data, symlinks = places)),
        RunEnvironmentInfo(environment = {"MODE": ctx.attr.mode}),
    ]

shell_test = rule(
    implementation = _impl,
    attrs = {"data": attr.label_list(allow_files = True), "mode": attr.string(), "place": attr.string()},
    test = True,
)
"""
MODULE = """\
bazel_dep(name = "platforms", version = "1.0.0")
linking = use_repo_rule("//:repository.bzl", "linking")
linking(name = "linking")
"""
# A repository that links one file of the workspace and reads another.
REPOSITORY = """\
def _impl(rctx):
    rctx.symlink(rctx.workspace_root.get_child("linked.txt"), "linked.txt")
    names = rctx.read(Label("//:names.txt")).strip().split(" ")
    rctx.file("BUILD.bazel", "exports_files({})".format(["linked.txt"] + names))

linking = repository_rule(implementation = _impl)
"""
RC = "\nbuild --nobuild_runfile_links\nbuild --test_env=LEVEL=1\ntest --test_env=LEVEL=2\n"


def git(root, *arguments):
    options = ["-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *options, *arguments], cwd=root, check=True, capture_output=True)


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    root = tmp_path_factory.mktemp("origin")
    host_bazel.make_workspace(root)
    with (root / ".bazelrc").open("a") as file:
        file.write(RC)
    files = {
        "MODULE.bazel": MODULE,
        "BUILD.bazel": BUILD,
        "rule.bzl": RULE,
        "repository.bzl": REPOSITORY,
        "linked.txt": "",
        "names.txt": "other.txt",
        "lib.txt": "",
        "in.txt": "b\na\n",
        "README.md": "",
    }
    for name, text in files.items():
        (root / name).write_text(text)
    for arguments in (("init",), ("add", "--all"), ("commit", "-m", "base")):
        git(root, *arguments)
    return root


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    yield folder
    for home in folder.glob("*/workspaces/*"):
        PrivateBazel.shut_down_all(host_bazel.short_lived_command(), home / "tree")


@pytest.fixture
def root(origin):
    yield origin
    git(origin, "checkout", ".")
    git(origin, "clean", "-fd")


@pytest.fixture
def options(cache):
    return Options(bazel=host_bazel.short_lived_command(), configurations={"cpu": ()}, cache=cache / "first")


def edit(root, name, old, new):
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new))


def names(selection):
    return {affected.test.label.removeprefix("//:").removesuffix("_test") for affected in selection.affected}


def ask(root, options):
    return names(select(root, "HEAD", None, options))


ALL = {"plain", "lib", "linked", "made", "mode"}


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("README.md", "", "prose", set()),
        ("BUILD.bazel", "genrule(", "# why\ngenrule(", set()),
        ("BUILD.bazel", '["unit"])\n\nshell_test(name = "lib', '["slow"])\n\nshell_test(name = "lib', set()),
        ("BUILD.bazel", 'mode = "one", tags = ["unit"]', 'mode = "two", tags = ["slow"]', {"mode"}),
        ("BUILD.bazel", 'data = [":lib"]', 'data = [":lib", "in.txt"]', {"lib"}),
        ("BUILD.bazel", 'place = "here"', 'place = "there"', {"lib"}),
        ("rule.bzl", "    program =", "    # why\n    program =", set()),
        ("rule.bzl", "#!/bin/sh", "#!/bin/sh -e", ALL),
        ("lib.txt", "", "new", {"lib"}),
        ("in.txt", "a", "c", {"made"}),
        ("linked.txt", "", "new", {"linked"}),
        ("names.txt", "other", "another", set()),
        (".bazelrc", "LEVEL=2", "LEVEL=3", ALL),
        (".bazelrc", "LEVEL=1", "LEVEL=3", set()),
        (".bazelrc", "build --test", "build --test_output=all\nbuild --test", set()),
    ],
)
def test_answers(root, options, name, old, new, expected):
    edit(root, name, old, new)
    assert ask(root, options) == expected


def test_a_program_may_make_what_it_made(root, options):
    edit(root, "in.txt", "b\na\n", "a\nb\n")
    assert ask(root, options) == {"made"}
    built = Options(bazel=options.bazel, configurations=options.configurations, cache=options.cache, build=True)
    assert ask(root, built) == set()
    edit(root, "in.txt", "a\nb\n", "c\nb\n")
    assert ask(root, built) == {"made"}


@pytest.mark.parametrize(
    ("name", "expected"), [("lib.txt", {"lib"}), ("in.txt", {"made"}), ("linked.txt", {"linked"}), ("README.md", set())]
)
def test_files_that_only_actions_read_ask_nothing(root, options, monkeypatch, name, expected):
    ask(root, options)

    def asked(*arguments):
        raise AssertionError(arguments)

    monkeypatch.setattr(PrivateBazel, "_run", asked)
    (root / name).write_text("new")
    assert ask(root, options) == expected


@pytest.mark.parametrize("name", ["names.txt", "rule.bzl", "repository.bzl", "MODULE.bazel", "BUILD.bazel", ".bazelrc"])
def test_files_that_bazel_reads_are_asked_about(root, options, monkeypatch, name):
    ask(root, options)
    asked = []
    whole = PrivateBazel._run
    monkeypatch.setattr(PrivateBazel, "_run", lambda *arguments: asked.append(arguments) or whole(*arguments))
    with (root / name).open("a") as file:
        file.write("\n")
    assert ask(root, options) == set()
    assert asked


def test_a_source_that_is_gone_is_an_error(root, options):
    (root / "lib.txt").unlink()
    with pytest.raises(SelectError, match="//:lib_test cannot be built in head: lib.txt"):
        ask(root, options)


def test_a_head_that_does_not_load_is_an_error(root, options):
    edit(root, "BUILD.bazel", "genrule(", "genrul(")
    with pytest.raises(SelectError, match="genrul"):
        ask(root, options)


def test_the_way_from_the_change_is_told(root, options):
    edit(root, "lib.txt", "", "new")
    with selecting(root, "HEAD", None, options) as selector:
        assert selector.distances() == {"//:lib_test": 2}
        assert selector.explain("//:lib_test").path == ("//:lib.txt", "//:lib", "//:lib_test")
        assert selector.explain("//:plain_test").verdict == "unaffected"
        assert selector.explain("//:away_test").verdict == "elsewhere"


def test_another_machine_takes_the_base_from_a_shared_cache(root, options, cache, tmp_path, monkeypatch):
    select(root, "HEAD", None, options)
    clone = tmp_path / "elsewhere" / "clone"
    git(tmp_path, "clone", str(root), str(clone))
    (cache / "second").mkdir()
    (cache / "second" / "snapshots").symlink_to(cache / "first" / "snapshots")
    there = Options(bazel=options.bazel, configurations=options.configurations, cache=cache / "second")
    edit(root, "lib.txt", "", "new")
    edit(clone, "lib.txt", "", "new")
    here = select(root, "HEAD", None, options)
    with monkeypatch.context() as patch:  # (another HOME restarts a server: only that of the clone starts with it)
        patch.setenv("HOME", str(tmp_path))
        other = select(clone, "HEAD", None, there)
    assert other.base.cached
    assert other == here


def test_the_users_tree_is_left_alone(root, options):
    edit(root, "lib.txt", "", "new")
    (root / "untracked.txt").touch()

    def state():
        files = [path for path in Path(root).rglob("*") if path.is_file()]
        # (git marks objects that it would write again as fresh)
        return {path: 0 if "objects" in path.parts else path.stat().st_mtime_ns for path in files}, os.listdir(root)

    before = state()
    ask(root, options)
    assert state() == before
