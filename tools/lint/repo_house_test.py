from pathlib import Path

import pytest

from tools.lint import house, tree
from tools.lint.finding import report
from tools.lint.repo import Repo


def test_the_rules_of_the_house_hold(tmp_path: Path) -> None:
    faults = report(house.check(Repo.read(tree.sources_under_test(tmp_path))))
    if faults:
        pytest.fail(faults, pytrace=False)
