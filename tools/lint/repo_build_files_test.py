from pathlib import Path

import pytest

from tools.lint import run_buildifier, tree
from tools.lint.finding import report


def test_build_files_are_formatted_and_linted(tmp_path: Path) -> None:
    program = run_buildifier.find()
    if program is None:
        pytest.skip("no buildifier on PATH")
    root = tree.sources_under_test(tmp_path)
    faults = report(run_buildifier.check(program, root, run_buildifier.files_of(root)))
    if faults:
        pytest.fail(faults, pytrace=False)
