import ast
from pathlib import Path

import pytest

from tools.lint import tree
from tools.lint.fixture_repo import write_files

HERE = Path(__file__).parent


def paths(root: Path) -> list[str]:
    return [str(path) for path in tree.source_files(root)]


def test_source_files_are_those_that_bazel_sees(tmp_path: Path) -> None:
    root = write_files(
        tmp_path,
        {
            "BUILD.bazel": "",
            "MODULE.bazel": "",
            "pyproject.toml": "",
            ".bazelignore": "# comment\nthird_party/modules\n",
            "third_party/modules/zlib/BUILD.bazel": "",
            "third_party/x.bzl": "",
            "trainers/a.py": "",
            "trainers/data.jsonl": "{}",
            "trainers/__pycache__/a.py": "",
            ".venv/x/b.py": "",
            "venv/pyvenv.cfg": "",
            "venv/lib/c.py": "",
        },
    )
    (root / "elsewhere").mkdir()
    (root / "bazel-bin").symlink_to(root / "trainers")
    assert paths(root) == [
        ".bazelignore",
        "BUILD.bazel",
        "MODULE.bazel",
        "pyproject.toml",
        "third_party/x.bzl",
        "trainers/__init__.py",
        "trainers/a.py",
    ]


def test_checkout_gives_files_their_own_names(tmp_path: Path) -> None:
    names = ["BUILD.bazel", ".bazelignore", "trainers/a.py"]
    linked = write_files(tmp_path / "tree", {name + ".src": f"# {name}\n" for name in names})
    root = tree.checkout(linked, tmp_path / "repo")
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()) == sorted(names)
    assert (root / "BUILD.bazel").read_text() == "# BUILD.bazel\n"


def test_checkout_of_nothing_says_what_to_declare(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"@source_tree//:tree"):
        tree.checkout(tmp_path, tmp_path / "repo")


def test_bazel_and_python_agree_on_what_a_source_file_is() -> None:
    constants = {
        statement.targets[0].id: set(ast.literal_eval(statement.value))
        for statement in ast.parse((HERE / "source_tree.bzl").read_text()).body
        if isinstance(statement, ast.Assign)
        and isinstance(statement.targets[0], ast.Name)
        and statement.targets[0].id in ("_NAMES", "_SUFFIXES")
    }
    assert constants == {"_NAMES": set(tree._NAMES), "_SUFFIXES": set(tree._SUFFIXES)}
