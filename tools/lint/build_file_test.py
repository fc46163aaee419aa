import textwrap

import pytest

from tools.lint.build_file import Target, normalize, read


def one(text: str) -> Target:
    build = read("trainers/data/BUILD.bazel", textwrap.dedent(text))
    assert build.faults == ()
    (target,) = build.targets
    return target


def faults(text: str) -> list[str]:
    return [f"{fault.line}: {fault.message}" for fault in read("p/BUILD.bazel", textwrap.dedent(text)).faults]


@pytest.mark.parametrize(
    ("label", "full"),
    [
        (":packing", "//trainers/data:packing"),
        ("packing", "//trainers/data:packing"),
        ("//trainers/data", "//trainers/data:data"),
        ("//:root", "//:root"),
        ("@//kernels/nki:x", "//kernels/nki:x"),
        ("@pypi//numpy", "@pypi//numpy:numpy"),
        ("@pypi//numpy:pkg", "@pypi//numpy:pkg"),
    ],
)
def test_normalize(label: str, full: str) -> None:
    assert normalize(label, "trainers/data") == full


def test_every_branch_of_an_expression_counts() -> None:
    target = one("""\
        py_library(
            name = "x",
            srcs = ["x.py"],
            deps = ["@pypi//torch"] + select({
                ":gpu": ["@pypi//triton"],
                "//conditions:default": [":fallback"],
            }),
        )
        """)
    assert [entry.value for entry in target.deps] == ["@pypi//torch", "@pypi//triton", ":fallback"]


def test_a_constant_of_the_file_is_read() -> None:
    build = read(
        "p/BUILD.bazel", 'DEPS = ["@pypi//torch"]\npy_library(name = "x", srcs = ["x.py"], deps = DEPS + [":y"])\n'
    )
    assert [(entry.value, entry.line) for entry in build.targets[0].deps] == [("@pypi//torch", 1), (":y", 2)]


def test_reasons_and_modules_stand_on_the_line() -> None:
    target = one("""\
        py_library(
            name = "x",
            deps = [
                ":a",  # keep: loaded by name
                "@peers//mini-trainer",  # import: mini_trainer, rhai.core
                ":b",
            ],
        )
        """)
    assert [(entry.line, entry.keep, entry.imports) for entry in target.deps] == [
        (4, "loaded by name", ()),
        (5, "", ("mini_trainer", "rhai.core")),
        (6, "", ()),
    ]


def test_a_reason_above_a_target_is_for_all_of_it() -> None:
    target = one("""\
        # keep: every test takes them
        py_library(
            name = "x",
            deps = [":a", ":b"],
        )
        """)
    assert [entry.keep for entry in target.deps] == ["every test takes them"] * 2


def test_test_code_is_told_from_library_code() -> None:
    assert one('trainer_test(name = "x", srcs = [])').is_test
    assert one('py_library(name = "x", testonly = True)').is_test
    assert not one('py_library(name = "x", testonly = False)').is_test


def test_faults_name_the_place() -> None:
    assert faults('py_library(name = "x", srcs = glob(["*.py"]))') == ["1: srcs globs Python sources"]
    assert faults('[py_library(name = n) for n in ["a"]]') == [
        "1: lint cannot read a Python target that is made in a loop or by an expression"
    ]
    assert faults('\npy_library(name = "x", deps = requirement("numpy"))') == [
        "2: lint cannot read deps is `requirement('numpy')`"
    ]
    assert faults('load(":w.bzl", "W")\npy_library(name = "x", data = W)') == [
        "2: data holds W, whose labels lint cannot see"
    ]
    assert faults('load(":w.bzl", "W")\npy_library(name = "x", data = W)  # keep: metadata') == []
    assert faults("py_library(") != []


def test_other_rules_may_be_made_in_loops() -> None:
    assert faults('[constraint_value(name = n) for n in ["a"]]\nfilegroup(name = "f", srcs = glob(["*.md"]))') == []
