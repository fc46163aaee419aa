import ast
import json
import os
from pathlib import Path

import pytest

from testing.runner import target
from testing.runner.declaration import Declaration, declaration_of, parse_declarations
from testing.runner.target import target_from_environment

PRIVATE = Path(target.__file__).parents[1] / "private"
EXPANSIONS = PRIVATE / "expansions.json"


def _table(name: str) -> list[dict[str, object]]:
    """A constant of declaration_table.bzl, which is Python too."""
    for node in ast.parse((PRIVATE / "declaration_table.bzl").read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name:
            return ast.literal_eval(node.value)
    raise AssertionError(name)


def _as_build_file(arguments: dict[str, object]) -> str:
    written = "".join(f"    {name} = {value!r},\n" for name, value in arguments.items())
    load = 'load("//testing:defs.bzl", "trainer_test")'
    return f'{load}\n\ntrainer_test(\n{written}    deps = ["@a//:b"] + select({{}}),\n)\n'


def _read(arguments: dict[str, object]) -> Declaration:
    (declaration,) = parse_declarations(_as_build_file(arguments), "pkg")
    return declaration


@pytest.mark.skipif("TEST_TARGET" not in os.environ, reason="the expansion in Starlark is made by Bazel")
class TestAgreesWithStarlark:
    def test_targets(self) -> None:
        expansions = json.loads(EXPANSIONS.read_text())["good"]
        assert len(expansions) == len(_table("GOOD")) > 5
        for arguments, variants in zip(_table("GOOD"), expansions, strict=True):
            declaration = _read(arguments)
            # As the runner under Bazel sees it. ($$ is how Bazel writes a dollar.)
            expanded = [
                target_from_environment(
                    {name: value.replace("$$", "$") for name, value in variant["env"].items()}
                    | {"TEST_TARGET": f"//pkg:{variant['name']}"}
                )
                for variant in variants
            ]
            assert declaration.targets() == expanded
            for one, variant in zip(expanded, variants, strict=True):
                assert {marker.replace("_", "-") for marker in one.markers} <= set(variant["tags"])
                assert ("multi_gpu" in one.markers) == ("multi-gpu" in variant["tags"])

    def test_bad_declarations(self) -> None:
        messages = json.loads(EXPANSIONS.read_text())["bad"]
        assert len(messages) == len(_table("BAD")) > 5
        for arguments, errors in zip(_table("BAD"), messages, strict=True):
            assert errors
            with pytest.raises(ValueError, match="trainer_test"):
                _read(arguments)


@pytest.mark.parametrize("arguments", _table("BAD"), ids=str)
def test_bad_declaration_is_an_error(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"trainer_test\(name = .*\) in //pkg: "):
        _read(arguments)


def test_target_on_takes_the_largest_that_fits() -> None:
    declaration = declaration_of("p", "a_test", ["a_test.py"], "unit", ["cpu", "gpu"], {"cpu": 8, "gpu": [2, 4]})

    def devices(hardware: str, count: int | None) -> int | None:
        target = declaration.target_on(hardware, count)
        return target.devices if target else None

    assert [devices("gpu", n) for n in (1, 2, 3, 4, 8, None)] == [None, 2, 2, 4, 4, 4]
    assert devices("cpu", None) == 8
    assert devices("trainium", None) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = [\n  trainer_test(name = n) for n in y]", r"pkg/BUILD.bazel:2: a trainer_test in a loop"),
        ("trainer_test(**x)", r"pkg/BUILD.bazel:1: \*\* in a trainer_test"),
        (
            "trainer_test(name = 'a_test',\n srcs = S,\n tier = 'unit')",
            r"BUILD.bazel:2: srcs of a trainer_test: write it",
        ),
        ("trainer_test(name = 'a_test', tier = 'unit')", "a trainer_test without srcs: add it"),
        ("trainer_test(", r"pkg/BUILD.bazel:1: .*: run `bazel build //pkg:all`"),
    ],
)
def test_what_python_cannot_read_is_an_error(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_declarations(text, "pkg")


def test_other_rules_are_left_alone() -> None:
    text = "py_library(name = 'a', srcs = glob(['*.py']))\n[f(x) for x in y]\n"
    assert parse_declarations(text, "pkg") == ()
