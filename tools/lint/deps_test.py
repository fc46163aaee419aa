from pathlib import Path

import pytest

from tools.lint import build_edit, deps
from tools.lint.finding import Finding
from tools.lint.fixture_repo import LOADS, read_repo, usual_wheels, write_files
from tools.lint.repo import Repo

CLEAN = {
    "MODULE.bazel": 'module(name = "x")',
    "trainers/data/packing.py": "import numpy as np\n",
    "trainers/data/loader.py": """\
        import os
        from typing import TYPE_CHECKING

        from trainers.data import packing

        if TYPE_CHECKING:
            import yaml

        def f():
            import torch.nn
        """,
    "trainers/data/loader_test.py": "import pytest\nfrom trainers.data.loader import f\n",
    "trainers/data/BUILD.bazel": LOADS
    + """\
py_library(
    name = "packing",
    srcs = ["packing.py"],
    deps = ["@pypi//numpy"],
)

py_library(
    name = "loader",
    srcs = ["loader.py"],
    deps = [
        ":packing",
        "@pypi//pyyaml",
        "@pypi//torch",
    ],
)

trainer_test(
    name = "loader_test",
    srcs = ["loader_test.py"],
    tier = "unit",
    deps = [":loader"],
)
""",
}
BUILD = "trainers/data/BUILD.bazel"


def check(tmp_path: Path, *changes: tuple[str, str, str], **files: str) -> list[Finding]:
    """The findings in the clean repo after `changes`: (file, old text, new text)."""
    write_files(tmp_path / "repo", CLEAN | files)
    for name, old, new in changes:
        path = tmp_path / "repo" / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
    return deps.check(Repo.read(tmp_path / "repo"), usual_wheels(tmp_path / "site-packages"))


def fixed(tmp_path: Path, findings: list[Finding]) -> list[Finding]:
    """The findings that are left after the edits that `findings` carry."""
    for finding in findings:
        if finding.edit is not None:
            path = tmp_path / "repo" / finding.edit.build_file
            path.write_text(build_edit.apply(path.read_text(), [finding.edit]))
    return deps.check(Repo.read(tmp_path / "repo"), usual_wheels(tmp_path / "again"))


def test_clean(tmp_path: Path) -> None:
    assert check(tmp_path) == []


@pytest.mark.parametrize(
    ("entry", "label", "file", "line", "module"),
    [
        ('        ":packing",\n', ":packing", "loader.py", 4, "trainers.data"),
        ('        "@pypi//torch",\n', "@pypi//torch", "loader.py", 10, "torch.nn"),
        ('        "@pypi//pyyaml",\n', "@pypi//pyyaml", "loader.py", 7, "yaml"),
        ('    deps = [":loader"],\n', ":loader", "loader_test.py", 2, "trainers.data.loader"),
    ],
)
def test_a_missing_dependency(tmp_path: Path, entry: str, label: str, file: str, line: int, module: str) -> None:
    findings = check(tmp_path, (BUILD, entry, ""))
    (finding,) = findings
    assert (finding.path, finding.line) == (f"trainers/data/{file}", line)
    assert f"imports {module}, but //trainers/data:{file.removesuffix('.py')} does not declare" in finding.message
    assert f'add "{label}" to deps of "{file.removesuffix(".py")}" ({BUILD}:' in finding.mend
    assert fixed(tmp_path, findings) == []


def test_transitive_is_not_enough(tmp_path: Path) -> None:
    (finding,) = check(tmp_path, ("trainers/data/loader.py", "import os\n", "import numpy\n"))
    assert "//trainers/data:loader does not declare @pypi//numpy" in finding.message


def test_a_dependency_of_another_package_is_spelled_in_full(tmp_path: Path) -> None:
    findings = check(
        tmp_path,
        **{
            "kernels/x.py": "from trainers.data.packing import pack\n",
            "kernels/BUILD.bazel": LOADS + 'py_library(name = "x", srcs = ["x.py"])\n',
        },
    )
    (finding,) = findings
    assert 'add "//trainers/data:packing" to deps of "x" (kernels/BUILD.bazel:3)' in finding.mend
    assert fixed(tmp_path, findings) == []


@pytest.mark.parametrize("label", ["@pypi//numpy", "//trainers/data:packing"])
def test_a_superfluous_dependency(tmp_path: Path, label: str) -> None:
    findings = check(tmp_path, (BUILD, '[":loader"]', f'[":loader", "{label}"]'))
    (finding,) = findings
    assert (finding.path, finding.line) == (BUILD, 23)
    assert f'deps of //trainers/data:loader_test hold "{label}", which no source of it imports' in finding.message
    assert f'"{label}",  # keep: why' in finding.mend
    assert fixed(tmp_path, findings) == []


def test_a_reason_keeps_a_dependency(tmp_path: Path) -> None:
    assert check(tmp_path, (BUILD, '[":loader"],', '[":loader", "@pypi//numpy"],  # keep: torch loads it')) == []


def test_what_the_macro_adds_is_not_declared(tmp_path: Path) -> None:
    findings = check(tmp_path, (BUILD, '[":loader"]', '[":loader", "@pypi//pytest"]'))
    (finding,) = findings
    assert 'hold "@pypi//pytest", which trainer_test adds itself' in finding.message
    assert fixed(tmp_path, findings) == []


def test_every_branch_of_select_is_declared_and_must_be_imported(tmp_path: Path) -> None:
    branches = '+ select({":gpu": ["@pypi//torch"], "//conditions:default": ["@pypi//numpy"]})'
    entry = '        "@pypi//torch",\n    ]'
    findings = check(tmp_path, (BUILD, entry, f"    ] {branches}"))
    assert [finding.message.partition(",")[0] for finding in findings] == [
        'deps of //trainers/data:loader hold "@pypi//numpy"'
    ]
    assert fixed(tmp_path, findings) == []


@pytest.mark.parametrize("label", [":packing", "@pypi//numpy"])
def test_a_library_in_data_needs_a_reason(tmp_path: Path, label: str) -> None:
    change = (BUILD, 'tier = "unit",', f'tier = "unit",\n    data = ["{label}", "x.json"],')
    (finding,) = check(tmp_path, change)
    assert (finding.path, finding.line) == (BUILD, 23)
    assert f'data of //trainers/data:loader_test holds "{label}"' in finding.message
    path = tmp_path / "repo" / BUILD
    path.write_text(path.read_text().replace('"x.json"],', '"x.json"],  # keep: read by a subprocess'))
    assert fixed(tmp_path, []) == []


def test_a_new_file_in_no_target_gets_the_lines_to_add(tmp_path: Path) -> None:
    findings = check(
        tmp_path,
        **{
            "trainers/data/new.py": "import yaml\nfrom trainers.data import newer, packing\n",
            "trainers/data/newer.py": "",
            "trainers/optim/adam_test.py": "import pytest\nimport torch\n",
        },
    )
    new, newer, adam = findings
    assert (new.path, newer.path, adam.path) == (
        "trainers/data/new.py",
        "trainers/data/newer.py",
        "trainers/optim/adam_test.py",
    )
    assert "is in no target" in new.message
    assert new.mend.startswith(f"add to {BUILD}:")
    assert [line.strip() for line in new.mend.splitlines()[1:]] == [
        "py_library(",
        'name = "new",',
        'srcs = ["new.py"],',
        "deps = [",
        '":newer",',
        '":packing",',
        '"@pypi//pyyaml",',
        "],",
        ")",
    ]
    assert adam.mend.startswith("create trainers/optim/BUILD.bazel")
    assert "trainer_test(" in adam.mend and '"@pypi//torch"' in adam.mend and "pytest" not in adam.mend


def test_a_conftest_is_only_exported(tmp_path: Path) -> None:
    (finding,) = check(tmp_path, **{"conftest.py": ""})
    assert finding.mend == 'add to BUILD.bazel: exports_files(["conftest.py"])'


def test_a_file_that_a_build_file_exports_is_declared(tmp_path: Path) -> None:
    exported = {"tools/finish.py": "", "tools/BUILD.bazel": 'exports_files(["finish.py"])\n'}
    named = {"third_party/wheel.py": "", "third_party/x.bzl": 'FINISH = Label("//third_party:wheel.py")\n'}
    assert check(tmp_path, **exported, **named) == []


def test_a_nested_module_is_left_alone(tmp_path: Path) -> None:
    assert check(tmp_path, **{"third_party/zlib/MODULE.bazel": "", "third_party/zlib/x.py": "import absent\n"}) == []


def test_an_import_that_nothing_provides(tmp_path: Path) -> None:
    absent, gone = check(
        tmp_path,
        (
            "trainers/data/packing.py",
            "import numpy as np\n",
            "import numpy\nimport absent.x\nimport trainers.data.gone\n",
        ),
    )
    assert (absent.line, gone.line) == (2, 3)
    assert "imports absent.x, but no wheel of the lock provides it" in absent.message
    assert "requirements in third_party/python" in absent.mend
    assert "no file trainers/data/gone.py is in the repo" in gone.message
    reason = "  # keep: only the Neuron host has it\n"
    path = tmp_path / "repo/trainers/data/packing.py"
    path.write_text(f"import numpy\nimport absent.x{reason}import trainers.data.gone{reason}")
    assert fixed(tmp_path, []) == []


def test_a_reason_keeps_an_import_of_a_wheel(tmp_path: Path) -> None:
    reason = "import numpy as np\nimport torch  # keep: only where the caller has it\n"
    assert check(tmp_path, ("trainers/data/packing.py", "import numpy as np\n", reason)) == []


def test_files_of_one_target_may_import_each_other(tmp_path: Path) -> None:
    source = ("trainers/data/packing.py", "numpy as np\n", "numpy\nimport trainers.data.bins\n")
    target = (BUILD, '["packing.py"]', '["packing.py", "bins.py"]')
    assert check(tmp_path, source, target, **{"trainers/data/bins.py": ""}) == []


def test_what_a_missing_file_imports_is_not_known(tmp_path: Path) -> None:
    assert check(tmp_path, (BUILD, 'srcs = ["loader_test.py"]', 'srcs = ["x_test.py"]'))[1:] == []


def test_importing_a_file_that_only_a_test_holds(tmp_path: Path) -> None:
    (finding,) = check(tmp_path, ("trainers/data/packing.py", "numpy as np", "numpy, trainers.data.loader_test"))
    assert "imports trainers/data/loader_test.py, which no py_library provides" in finding.message
    assert finding.mend.startswith(f'add a py_library with srcs = ["loader_test.py"] to {BUILD}')


def test_new_files_that_import_each_other(tmp_path: Path) -> None:
    files = {"trainers/data/a.py": "import trainers.data.b\n", "trainers/data/b.py": "import trainers.data.a\n"}
    a, b = check(tmp_path, **files)
    assert 'deps = [":b"]' in a.mend and 'deps = [":a"]' in b.mend


@pytest.mark.parametrize(
    ("label", "clean"),
    [
        ('"@peers//peer_pack"', True),
        ('"@peers//other"', False),
        ('"@peers//other",  # import: peer_pack\n', True),
        ('"@peers//numpy"', False),
    ],
)
def test_a_wheel_that_is_not_installed_goes_by_its_name(tmp_path: Path, label: str, clean: bool) -> None:
    source = ("trainers/data/loader_test.py", "import pytest\n", "import pytest\nimport peer_pack.core\n")
    findings = check(tmp_path, source, (BUILD, '[":loader"]', f'[":loader", {label}]'))
    assert (findings == []) is clean
    if label == '"@peers//other"':
        assert 'if @peers//other provides it, say so: `"@peers//other",  # import: peer_pack`' in findings[1].mend


def test_an_alias_stands_for_its_target(tmp_path: Path) -> None:
    alias = 'alias(name = "pack", actual = ":packing")\n\ntrainer_test('
    assert (
        check(tmp_path, (BUILD, "trainer_test(\n", alias + "\n"), (BUILD, '        ":packing"', '        ":pack"'))
        == []
    )


def test_a_build_file_that_cannot_be_read_is_a_finding(tmp_path: Path) -> None:
    (finding,) = check(
        tmp_path, (BUILD, '["packing.py"]', 'glob(["packing.py"])'), ("trainers/data/packing.py", "", "")
    )[:1]
    assert (finding.path, finding.line) == (BUILD, 5)
    assert "globs Python sources" in finding.message


def test_unparsable_python_is_left_to_ruff(tmp_path: Path) -> None:
    repo = read_repo(
        tmp_path / "repo",
        {"a/x.py": "def\n", "a/BUILD.bazel": LOADS + 'py_library(name = "x", srcs = ["x.py"])\n'},
    )
    assert deps.check(repo, usual_wheels(tmp_path / "site-packages")) == []
