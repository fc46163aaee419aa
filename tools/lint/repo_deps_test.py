from pathlib import Path

import pytest

from tools.lint import deps, distributions, tree
from tools.lint.distributions import Distributions
from tools.lint.finding import report
from tools.lint.repo import Repo


def test_targets_declare_what_they_import(tmp_path: Path) -> None:
    repo = Repo.read(tree.sources_under_test(tmp_path))
    faults = report(deps.check(repo, Distributions(distributions.site_folders())))
    if faults:
        pytest.fail(faults, pytrace=False)
