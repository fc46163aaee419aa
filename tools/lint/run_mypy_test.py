import shutil
from pathlib import Path

from tools.lint import run_mypy
from tools.lint.finding import Finding
from tools.lint.fixture_repo import LOADS, configuration, write_files
from tools.lint.repo import Repo

FILES = {
    "trainers/x.py": 'import os\n\nimport numpy as np\n\n\ndef f(a: int) -> str:\n    """Doc."""\n    return str(a)\n',
    "trainers/x_test.py": "import absent\n\ndef test(): return 1 + ''\n",
    "trainers/BUILD.bazel": LOADS + 'trainer_test(name = "x_test", srcs = ["x_test.py"])\n',
}


def repo(root: Path, **changes: str) -> Repo:
    write_files(root, FILES | changes)
    (root / "pyproject.toml").write_text(configuration())
    return Repo.read(root)


def findings(tmp_path: Path, seeded: Path | None, text: str) -> list[Finding]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    found = run_mypy.check(repo(tmp_path / "repo", **{"trainers/x.py": text}), seeded, scratch)
    shutil.rmtree(scratch)
    return found


def test_only_public_code_is_checked(tmp_path: Path) -> None:
    found = repo(tmp_path)
    assert run_mypy.public_files(found) == ["trainers/__init__.py", "trainers/x.py"]
    assert run_mypy.third_party_modules(found) == ["numpy"]


def test_faults_have_place_and_mend_from_a_seed_and_without(tmp_path: Path) -> None:
    seeded = tmp_path / "seed.tar"
    (tmp_path / "pyproject.toml").write_text(configuration())
    run_mypy.seed(tmp_path / "pyproject.toml", ["typing", "absent"], seeded)
    typed = FILES["trainers/x.py"].replace("import os\n\nimport numpy as np\n", "import ast\n")
    for start in (None, seeded):
        assert findings(tmp_path, start, typed) == []

    (wrong,) = findings(tmp_path, seeded, typed.replace("str(a)", "a"))
    assert (wrong.path, wrong.line) == ("trainers/x.py", 6)
    assert 'got "int", expected "str"' in wrong.message and "[return-value]" in wrong.message

    (untyped,) = findings(tmp_path, seeded, typed.replace("a: int", "a"))
    assert (untyped.line, untyped.message[-16:]) == (4, "[no-untyped-def]")

    (absent,) = findings(tmp_path, seeded, typed.replace("import ast", "import absent"))
    assert absent.line == 1 and "absent" in absent.message
    assert "overrides of [tool.mypy] in pyproject.toml" in absent.mend
