from pathlib import Path

import pytest

from tools.lint import run_mypy, tree
from tools.lint.finding import report
from tools.lint.repo import Repo


def test_public_code_is_typed(tmp_path: Path) -> None:
    repo = Repo.read(tree.sources_under_test(tmp_path))
    seeded = Path(__file__).parent / "types_seed.tar"
    if seeded.exists():
        faults = report(run_mypy.check(repo, seeded, tmp_path / "cache"))
    else:  # not under Bazel: mypy's own cache in the working tree
        faults = report(run_mypy.check(repo, None, repo.root / ".mypy_cache"))
    if faults:
        pytest.fail(faults, pytrace=False)
