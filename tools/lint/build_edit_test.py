import ast
import textwrap

import pytest

from tools.lint.build_edit import apply
from tools.lint.build_file import read
from tools.lint.finding import DepEdit


def edited(text: str, *changes: str) -> str:
    """Applies `+label` and `-label` to target x; the result must still be a BUILD file."""
    edits = [DepEdit("p/BUILD.bazel", "x", change[1:], add=change[0] == "+") for change in changes]
    result = apply(textwrap.dedent(text), edits)
    ast.parse(result)
    return result


def deps(text: str) -> list[str]:
    build = read("p/BUILD.bazel", text)
    assert build.faults == ()
    return [entry.value for target in build.targets if target.name == "x" for entry in target.deps]


LIST = """\
py_library(
    name = "y",
    deps = [":a"],
)

py_library(
    name = "x",  # naïve
    srcs = ["x.py"],
    deps = [
        ":a",
        ":b",  # why b
        ":c",
    ],
)
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LIST, [":n", ":a", ":b", ":c"]),
        ('py_library(name = "x", srcs = ["x.py"])\n', [":n"]),
        ('py_library(name = "x", deps = [])\n', [":n"]),
        ('D = [":d"]\npy_library(name = "x", deps = D)\n', [":n", ":d"]),
        ('py_library(name = "x", deps = select({":g": [":d"]}))\n', [":n", ":d"]),
        ('py_library(name = "x", deps = select({":g": [":d"]}) + [":e"])\n', [":d", ":n", ":e"]),
    ],
)
def test_add(text: str, expected: list[str]) -> None:
    result = edited(text, "+:n")
    assert deps(result) == expected
    assert 'name = "y",\n    deps = [":a"]' in result or text is not LIST


def test_remove_takes_the_whole_line_with_its_comment() -> None:
    assert edited(LIST, "-:b") == LIST.replace('        ":b",  # why b\n', "")


def test_remove_leaves_what_shares_the_line() -> None:
    text = 'py_library(name = "x", deps = [":é", ":b", ":c"])\n'
    assert edited(text, "-:b") == 'py_library(name = "x", deps = [":é", ":c"])\n'
    assert edited(text, "-:c") == 'py_library(name = "x", deps = [":é", ":b", ])\n'


def test_remove_the_last_entry_removes_the_attribute() -> None:
    assert edited(LIST, "-:a", "-:b", "-:c") == LIST[: LIST.rindex("    deps")] + ")\n"


def test_remove_reaches_every_branch() -> None:
    text = 'py_library(name = "x", deps = [":a"] + select({":g": [":b", ":c"], ":h": [":b"]}))\n'
    assert deps(edited(text, "-:b")) == [":a", ":c"]


def test_what_does_not_apply_is_refused() -> None:
    with pytest.raises(ValueError, match="no entry ':z'"):
        edited(LIST, "-:z")
    with pytest.raises(ValueError, match=r"has no target 'x'.*:z"):
        edited('py_library(name = "y")', "+:z")
