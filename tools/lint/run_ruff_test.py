import subprocess
from pathlib import Path

import pytest

from tools.lint import run_ruff
from tools.lint.fixture_repo import configuration, write_files

CLEAN = '"""Doc."""\n\nimport os\n\nNAME = os.name\n'


def repo(tmp_path: Path, text: str) -> Path:
    root = write_files(tmp_path / "repo", {"trainers/x.py": "#"})
    (root / "trainers/x.py").write_text(text)
    (root / "pyproject.toml").write_text(configuration())
    return root


def test_clean(tmp_path: Path) -> None:
    assert run_ruff.check(repo(tmp_path, CLEAN)) == []


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (CLEAN.replace("NAME = ", "NAME  =  "), 5, "is not in the format of ruff"),
        (CLEAN.replace("import os\n", "import os\nimport sys\n"), 4, "F401: `sys` imported but unused"),
        (CLEAN.replace("import os\n", "import os\nimport ast\n\nast\n"), 3, "I001"),
    ],
)
def test_a_fault_is_named_and_fixed(tmp_path: Path, text: str, line: int, message: str) -> None:
    root = repo(tmp_path, text)
    findings = run_ruff.check(root)
    assert {finding.path for finding in findings} == {"trainers/x.py"}
    assert [finding.line for finding in findings if finding.message.startswith(message)] == [line]
    assert all(
        "./bazelw run //tools:fix" in finding.mend for finding in findings if finding.message.startswith(message)
    )
    run_ruff.fix(root)
    assert not [finding for finding in run_ruff.check(root) if finding.message.startswith(message)]


def test_what_only_a_person_can_mend_says_where_to_read(tmp_path: Path) -> None:
    (finding,) = run_ruff.check(repo(tmp_path, CLEAN.removeprefix('"""Doc."""\n\n')))
    assert (finding.line, finding.mend) == (1, "see `ruff rule D100`")
    assert finding.message.startswith("D100: ")


def test_a_syntax_error_has_its_place(tmp_path: Path) -> None:
    findings = run_ruff.check(repo(tmp_path, CLEAN + "def f(:\n"))
    assert {(finding.path, finding.line) for finding in findings} == {("trainers/x.py", 6), ("trainers/x.py", 7)}


def test_a_faulty_configuration_is_an_error(tmp_path: Path) -> None:
    root = repo(tmp_path, CLEAN)
    (root / "pyproject.toml").write_text("[tool.ruff]\nnonsense = 1\n")
    with pytest.raises(ValueError, match="nonsense"):
        run_ruff.check(root)


def test_a_ruff_that_does_not_start_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess(["ruff"], 1, stdout="", stderr="FileNotFoundError: ruff")
    monkeypatch.setattr(run_ruff, "run_python_module", lambda *arguments: failed)
    with pytest.raises(ValueError, match="FileNotFoundError: ruff"):
        run_ruff.check(tmp_path)


def test_snippets_in_prose_are_left_as_they_are(tmp_path: Path) -> None:
    root = repo(tmp_path, CLEAN)
    text = '# Doc\n\n```python\npy_library(name = "x")\n```\n'
    (root / "README.md").write_text(text)
    assert run_ruff.check(root) == []
    run_ruff.fix(root)
    assert (root / "README.md").read_text() == text
