import os
import stat
from pathlib import Path

import pytest

from tools.affected.private_bazel import NAMES_VARIABLE, BazelError, PrivateBazel, common_rc, rc_lines

# common_rc


def workspace(tmp_path: Path, **files: str) -> Path:
    for name, text in {"rc": "", **files}.items():
        (tmp_path / (".bazelrc" if name == "rc" else name)).write_text(text)
    return tmp_path


def test_lines_of_test_hold_for_all(tmp_path):
    rc = """\
common --lockfile_mode=off
build --copt=-O2
test --test_output=errors --test_env=A=1

test:gpu --test_env=B
  test   --runs_per_test=2
testing --nothing
build:test --nothing
"""
    assert common_rc(workspace(tmp_path, rc=rc)) == (
        "common --lockfile_mode=off\ncommon --copt=-O2\ncommon:test --nothing\n"
        "common --test_output=errors --test_env=A=1\ncommon:gpu --test_env=B\ncommon --runs_per_test=2\n"
    )


def test_comments(tmp_path):
    rc = "# test --a\ntest --b # --c\n#\n"
    assert common_rc(workspace(tmp_path, rc=rc)) == "common --b # --c\n"


def test_options_for_tests_weigh_more_than_those_for_builds(tmp_path):
    rc = "test --test_env=A=3\nbuild --test_env=A=2\ncommon --test_env=A=1\nalways --x\nstartup --y\nquery --z\n"
    assert common_rc(workspace(tmp_path, rc=rc)) == (
        "startup --y\ncommon --test_env=A=1\ncommon --x\ncommon --test_env=A=2\ncommon --test_env=A=3\n"
    )


def test_quoted_words(tmp_path):
    rc = "test \"--test_env=A=x y\" '--test_arg=a # b'\n"
    assert common_rc(workspace(tmp_path, rc=rc)) == "common \"--test_env=A=x y\" '--test_arg=a # b'\n"


def test_continued_line(tmp_path):
    assert common_rc(workspace(tmp_path, rc="test --a \\\n  --b\ntest --c\n")) == "common --a   --b\ncommon --c\n"


def test_imports_in_their_place(tmp_path):
    files = {
        "rc": "test --a\nimport %workspace%/more.rc\ntest --d\n",
        "more.rc": "test --b\ntry-import %workspace%/last.rc\n",
    }
    workspace(tmp_path, **files, **{"last.rc": "test --c\n"})
    assert common_rc(tmp_path) == "common --a\ncommon --b\ncommon --c\ncommon --d\n"


def test_import_of_an_absolute_path(tmp_path):
    workspace(tmp_path, rc=f"import {tmp_path}/more.rc\n", **{"more.rc": "test --b\n"})
    assert common_rc(tmp_path) == "common --b\n"


def test_import_of_what_is_not_there(tmp_path):
    rc = "try-import %workspace%/user.bazelrc\ntest --a\n"
    assert common_rc(workspace(tmp_path, rc=rc)) == "common --a\n"
    with pytest.raises(BazelError, match="import %workspace%/gone.rc.*no such file"):
        common_rc(workspace(tmp_path, rc=rc + "import %workspace%/gone.rc\n"))


def test_no_rc(tmp_path):
    assert common_rc(tmp_path) == ""


def test_rc_that_imports_itself_ends(tmp_path):
    found = rc_lines(workspace(tmp_path, rc="test --a\nimport %workspace%/.bazelrc\n") / ".bazelrc", tmp_path)
    assert found[0] == ("test", "--a")


def test_broken_line_is_left_to_bazel(tmp_path):
    assert common_rc(workspace(tmp_path, rc='test "--a\ntest --b\n')) == 'common "--a\ncommon --b\n'


def test_rc_lines_know_no_place(tmp_path):
    """What they say enters snapshots, which other machines read."""
    rc = "common --registry=%workspace%/registry\nimport %workspace%/more.rc\n"
    workspace(tmp_path, rc=rc, **{"more.rc": "build --b\n"})
    assert rc_lines(tmp_path / ".bazelrc", tmp_path) == [
        ("common", "--registry=%workspace%/registry"),
        ("build", "--b"),
    ]


# PrivateBazel


class Program:
    """A `bazel` that writes down how it was called, and does what `script` says; what that prints is the answer."""

    def __init__(self, folder: Path, script: str) -> None:
        self._calls = folder / "calls"
        self.path = folder / "bazel"
        note = f"for word; do printf '%s\\n' \"$word\"; done >>{self._calls}; echo END >>{self._calls}"
        file = """file=$(printf '%s\\n' "$@" | sed -n 's/^--output_file=//p')"""
        answer = 'exec 3>&1; [ -z "$file" ] || exec >"$file"'
        self.path.write_text("\n".join(["#!/bin/sh", note, file, answer, script, ""]))
        self.path.chmod(self.path.stat().st_mode | stat.S_IXUSR)

    def calls(self) -> list[list[str]]:
        text = self._calls.read_text() if self._calls.exists() else ""
        return [call.splitlines() for call in text.split("END\n")[:-1]]

    def verbs(self) -> list[str]:
        verbs = ("cquery", "aquery", "query", "build", "shutdown")
        return [next(word for word in call if word in verbs) for call in self.calls()]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "ours/tree").mkdir(parents=True)
    return tmp_path / "ours/tree"


def test_answer(tmp_path, folder):
    program = Program(tmp_path, "pwd; echo noise >&2; printf '\\377'")
    (folder / ".bazelrc").write_text("test --test_env=A\n")
    bazel = PrivateBazel((str(program.path), "--nosystem_rc"), folder, ("--repo_env=X=a b",))
    assert bazel.cquery("deps(//...)", "--config=gpu") == os.fsencode(folder) + b"\n\xff"
    (call,) = program.calls()
    before, after = call[: call.index("cquery")], call[call.index("cquery") :]
    assert before[0] == "--nosystem_rc"
    assert f"--output_base={bazel.output_base}" in before
    assert bazel.output_base == folder.with_name("tree.output")
    assert after[-4] == "--config=gpu"
    assert after[-2:] == ["--", "deps(//...)"]
    (rc,) = (Path(word.removeprefix("--bazelrc=")) for word in before if word.startswith("--bazelrc="))
    assert not rc.is_relative_to(folder)
    assert rc.read_text().startswith("common --test_env=A\n")
    assert "common --repo_env=X=a\\ b\n" in rc.read_text()


def test_answer_does_not_come_by_standard_output(tmp_path, folder):
    """Bazel strips what looks like escape sequences from it."""
    program = Program(tmp_path, "echo noise >&3; printf '\\033[1m'")
    bazel = PrivateBazel((str(program.path),), folder, ())
    for ask in (bazel.cquery, bazel.aquery, bazel.query):
        assert ask("x") == b"\033[1m"


def test_each_question_reads_the_rc_of_its_tree(tmp_path, folder):
    program = Program(tmp_path, "cat $(printf '%s\\n' \"$@\" | sed -n 's/^--bazelrc=//p')")
    bazel = PrivateBazel((str(program.path),), folder, ())
    own = bazel.query("x")
    (folder / ".bazelrc").write_text("test --test_env=A\n")
    assert bazel.query("x") == b"common --test_env=A\n" + own
    bazel.names = "abc"
    assert f"common --repo_env={NAMES_VARIABLE}=abc\n".encode() in bazel.query("x")


def test_error_says_what_bazel_said(tmp_path, folder):
    program = Program(tmp_path, "echo 'ERROR: no such package' >&2; exit 7")
    bazel = PrivateBazel((str(program.path),), folder, ())
    for ask in (bazel.cquery, bazel.aquery, bazel.query):
        with pytest.raises(BazelError, match="^ERROR: no such package$"):
            ask("x")
    assert program.verbs() == ["cquery", "aquery", "query"]


def test_error_without_words(tmp_path, folder):
    with pytest.raises(BazelError, match="exit status 37"):
        PrivateBazel((str(Program(tmp_path, "exit 37").path),), folder, ()).query("x")


TRIPPED = """
case "$*" in
*shutdown*) touch {ended}; exit 0 ;;
esac
test -e {ended} && {{ echo answer; exit 0; }}
echo 'ERROR: Inconsistent filesystem operations' >&2; exit 1
"""


def test_server_that_tripped_is_asked_again(tmp_path, folder):
    program = Program(tmp_path, TRIPPED.format(ended=tmp_path / "ended"))
    assert PrivateBazel((str(program.path),), folder, ()).cquery("x") == b"answer\n"
    assert program.verbs() == ["cquery", "shutdown", "cquery"]


def test_server_that_trips_again_is_an_error(tmp_path, folder):
    program = Program(tmp_path, "case \"$*\" in *shutdown*) exit 0 ;; esac; echo 'Inconsistent filesystem' >&2; exit 1")
    with pytest.raises(BazelError, match="Inconsistent filesystem"):
        PrivateBazel((str(program.path),), folder, ()).cquery("x")
    assert program.verbs() == ["cquery", "shutdown", "cquery"]


def test_long_question_goes_by_file(tmp_path, folder):
    program = Program(tmp_path, "cat $(printf '%s\\n' \"$@\" | sed -n 's/^--query_file=//p')")
    expression = "set(" + " ".join(f'"//package:target_{i}"' for i in range(20_000)) + ")"
    assert PrivateBazel((str(program.path),), folder, ()).aquery(expression) == expression.encode()
    (call,) = program.calls()
    assert not any("target_" in word for word in call)
    (file,) = (word for word in call if word.startswith("--query_file="))
    assert not Path(file.removeprefix("--query_file=")).exists()


def test_build_goes_by_file(tmp_path, folder):
    program = Program(tmp_path, "cp $(printf '%s\\n' \"$@\" | sed -n 's/^--target_pattern_file=//p') targets")
    bazel = PrivateBazel((str(program.path),), folder, ())
    bazel.build(["//a:b", "//c:d"], ["--config=gpu"])
    assert (folder / "targets").read_text().split() == ["//a:b", "//c:d"]
    assert "--config=gpu" in program.calls()[0]
    failing = Program(tmp_path, "echo 'ERROR: no rule' >&2; exit 1")
    with pytest.raises(BazelError, match="no rule"):
        PrivateBazel((str(failing.path),), folder, ()).build(["//a:b"], [])


def test_continued_word(tmp_path):
    """Bazel joins the lines without a space between them."""
    assert common_rc(workspace(tmp_path, rc="test --test_env=A=x\\\ny\n")) == "common --test_env=A=xy\n"


def test_backslash_arrives(tmp_path):
    """Bazel takes a backslash for an escape within single quotes, too."""
    found = common_rc(workspace(tmp_path, rc='test "--test_env=A=x\\\\y"\n'))
    assert found == 'common "--test_env=A=x\\\\y"\n'


# What Bazel read.

DUMP = """\
Warning: this information is intended for consumption by developers

FILE_STATE:[{folder}]/[lib/BUILD.bazel]


FILE_STATE:[{folder}]/[third_party/lock.txt]

  Group 1:
    REPOSITORY_DIRECTORY:@@wheel


FILE_STATE:[<absolute root>]/[{folder}/named by its place.txt]


FILE_STATE:[{folder}.output/external/wheel]/[BUILD.bazel]


FILE_STATE:[/usr]/[lib/BUILD]


DIRECTORY_LISTING_STATE:[{folder}]/[lib]
"""


def test_read_files(tmp_path, folder):
    (tmp_path / "dump").write_text(DUMP.format(folder=folder))
    (folder / ".bazelrc").write_text("try-import %workspace%/tools/x.bazelrc\ntry-import /etc/y.bazelrc\n")
    program = Program(tmp_path, f"cat {tmp_path}/dump")
    found = PrivateBazel((str(program.path),), folder, ()).read_files()
    assert found is not None
    inside = {path for path in found if not path.startswith("../")}
    read = {"lib/BUILD.bazel", "third_party/lock.txt", "named by its place.txt"}
    assert inside == {*read, ".bazelrc", "tools/x.bazelrc"}


@pytest.mark.parametrize(
    "script", ["exit 2", "echo 'FILE_STATE:[{folder}]/[a.txt]'", "echo FILE_STATE lib/BUILD.bazel"]
)
def test_read_files_of_a_bazel_that_does_not_tell(tmp_path, folder, script):
    program = Program(tmp_path, script.format(folder=folder))
    assert PrivateBazel((str(program.path),), folder, ()).read_files() is None


def test_servers_on_one_workspace(tmp_path, folder):
    program = Program(tmp_path, "exit 0")
    bazels = [PrivateBazel((str(program.path),), folder, (), server) for server in range(2)]
    assert bazels[0].output_base != bazels[1].output_base
    for bazel in bazels:
        bazel.output_base.mkdir()
        bazel.query("x")
    PrivateBazel.shut_down_all((str(program.path),), folder)
    ends = [word for call in program.calls() if "shutdown" in call for word in call if "output_base" in word]
    assert sorted(ends) == sorted(f"--output_base={bazel.output_base}" for bazel in bazels)
