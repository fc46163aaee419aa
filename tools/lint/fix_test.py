import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tools.lint import fix, run_buildifier
from tools.lint.fixture_repo import LOADS, configuration, usual_wheels, write_files

FAULTY = {
    "MODULE.bazel": 'module( name = "x")\n',
    "trainers/data/packing.py": '"""Packing."""\nimport numpy as np\nimport os\nONE = np.ones( 1)\n',
    "trainers/data/loader.py": '"""Loader."""\n\nfrom trainers.data import packing\n\nTWO = packing.ONE + 1\n',
    "trainers/data/BUILD.bazel": LOADS.splitlines(keepends=True)[0].replace('"py_binary", ', "")
    + """\
py_library(name = "packing", srcs = ["packing.py"])
py_library(
    name = "loader",
    srcs = ["loader.py"],
    deps = ["@pypi//torch", "@pypi//numpy"],
)
""",
}
MENDED = """\
load("@rules_python//python:defs.bzl", "py_library")

py_library(
    name = "packing",
    srcs = ["packing.py"],
    deps = ["@pypi//numpy"],
)

py_library(
    name = "loader",
    srcs = ["loader.py"],
    deps = [":packing"],
)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = write_files(tmp_path / "repo", FAULTY)
    (root / "pyproject.toml").write_text(configuration())
    (root / "trainers/data/__init__.py").unlink()
    return root


def test_apply_mends_everything_a_program_can(root: Path, tmp_path: Path) -> None:
    buildifier = run_buildifier.find()
    if buildifier is None:
        pytest.skip("no buildifier on PATH")
    wheels = usual_wheels(tmp_path / "site-packages")
    assert len(fix.remaining(root, wheels, buildifier)) >= 8
    edits = fix.apply(root, wheels, buildifier)
    changes = {("+" if edit.add else "-") + edit.label for edit in edits}
    assert changes == {"-@pypi//numpy", "-@pypi//torch", "+:packing", "+@pypi//numpy"}
    assert (root / "trainers/data/BUILD.bazel").read_text() == MENDED
    assert (root / "trainers/data/packing.py").read_text() == (
        '"""Packing."""\n\nimport numpy as np\n\nONE = np.ones(1)\n'
    )
    assert fix.remaining(root, wheels, buildifier) == []
    before = fix.snapshot(root)
    assert fix.apply(root, wheels, buildifier) == []
    assert fix.snapshot(root) == before


def test_the_command_lists_what_it_changed_and_what_is_left(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "trainers/data/orphan.py").write_text('"""In no target."""\n')
    (root / "trainers/data/long.py").write_text('"""Doc."""\n\n' + "X = 1\n" * 97 + "X = 1  #" + "x" * 130 + "\n")
    monkeypatch.setattr(fix, "Distributions", lambda folders: usual_wheels(tmp_path / "site-packages"))
    command = typer.Typer()
    command.command()(fix.main)
    result = CliRunner().invoke(command, [str(root)])
    output = re.sub(r"\s+", " ", result.output)
    assert "trainers/data/packing.py" in output and "+ packing: @pypi//numpy" in output
    assert "trainers/data/orphan.py: is in no target" in output
    assert 'name = "orphan"' in output and "trainers/data/__init__.py │ created" in output
    assert "trainers/data/long.py:100: E501" in output and "3 finding(s) left" in output
    assert result.exit_code == 1


def test_the_command_stops_at_a_program_that_cannot_run(root: Path) -> None:
    (root / "pyproject.toml").write_text("[tool.ruff]\nnonsense = 1\n")
    command = typer.Typer()
    command.command()(fix.main)
    result = CliRunner().invoke(command, [str(root)])
    assert result.exit_code == 2
    assert "fix stopped" in result.output and "nonsense" in result.output
