from pathlib import Path

import pytest

from tools.lint import run_buildifier
from tools.lint.fixture_repo import LOADS, write_files

CLEAN = LOADS.splitlines(keepends=True)[0].replace('"py_binary", ', "") + (
    '\npy_library(\n    name = "x",\n    srcs = ["x.py"],\n    deps = [\n        ":a",\n        ":b",\n    ],\n)\n'
)


@pytest.fixture
def program() -> Path:
    found = run_buildifier.find()
    if found is None:
        pytest.skip("no buildifier on PATH")
    return found


def check(program: Path, root: Path) -> list[str]:
    return [
        f"{f.path}:{f.line}: {f.message}" for f in run_buildifier.check(program, root, run_buildifier.files_of(root))
    ]


def test_clean(program: Path, tmp_path: Path) -> None:
    assert check(program, write_files(tmp_path, {"p/BUILD.bazel": CLEAN, "MODULE.bazel": 'module(name = "x")\n'})) == []
    assert run_buildifier.check(program, tmp_path, []) == []


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("p/BUILD.bazel", CLEAN.replace('":a"', '":c"'), "p/BUILD.bazel:0: is not in the format of buildifier"),
        ("p/BUILD.bazel", CLEAN.replace("deps = [", "deps  = ["), "p/BUILD.bazel:0: is not in the format"),
        ("BUILD.bazel", CLEAN.replace('"py_library")', '"py_library", "py_test")'), "BUILD.bazel:1: load: "),
        ("x.bzl", '"""Doc."""\n\nX = [ 1]\n', "x.bzl:0: is not in the format"),
        ("MODULE.bazel", 'module( name = "x")\n', "MODULE.bazel:0: is not in the format"),
    ],
)
def test_a_fault_is_named_and_fixed(program: Path, tmp_path: Path, name: str, text: str, expected: str) -> None:
    root = write_files(tmp_path, {name: text})
    (finding,) = check(program, root)
    assert finding.startswith(expected)
    run_buildifier.fix(program, root, run_buildifier.files_of(root))
    assert check(program, root) == []


def test_what_only_a_person_can_mend_has_its_line(program: Path, tmp_path: Path) -> None:
    root = write_files(tmp_path, {"x.bzl": '"""Doc."""\n\ndef _f(a, b):\n    return a\n\nF = _f\n'})
    (finding,) = run_buildifier.check(program, root, ["x.bzl"])
    assert (finding.path, finding.line) == ("x.bzl", 3)
    assert finding.message.startswith("unused-variable: ")
    assert finding.mend.startswith("see ")


def test_a_syntax_error_is_named(program: Path, tmp_path: Path) -> None:
    root = write_files(tmp_path, {"x.bzl": "def f(:\n"})
    (finding,) = check(program, root)
    assert finding.startswith("x.bzl:0: is not valid Starlark: x.bzl:1:")


def test_a_program_that_cannot_run_is_an_error(tmp_path: Path) -> None:
    program = tmp_path / "buildifier"
    program.write_text("#!/bin/sh\necho npm is missing >&2\nexit 127\n")
    program.chmod(0o755)
    with pytest.raises(ValueError, match="npm is missing"):
        run_buildifier.check(program, tmp_path, ["BUILD.bazel"])
