from pathlib import Path

import pytest

from tools.lint import run_ruff, tree
from tools.lint.finding import report


def test_python_files_are_formatted_and_linted(tmp_path: Path) -> None:
    faults = report(run_ruff.check(tree.sources_under_test(tmp_path)))
    if faults:
        pytest.fail(faults, pytrace=False)
