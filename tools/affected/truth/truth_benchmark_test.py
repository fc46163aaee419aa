"""All kinds of change, and pairs of them: recall and precision are 100 %, or the verdict says where not."""

from pathlib import Path

import pytest
from rich.console import Console

from tools.affected.truth import harness, report, truth
from tools.affected.truth.changes import KINDS
from tools.bazel import host_bazel

SEED = 1
PAIRS = 60


def test_recall_and_precision(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cases = harness.cases(KINDS.values(), len(KINDS), PAIRS)
    assert len(cases) > 200
    with capfd.disabled():  # (it takes long, and `--test_output=streamed` shows how far it is)
        results = truth.run(truth.on_synthetic(host_bazel.short_lived_command(), tmp_path), cases, SEED)
        Console(width=120).print(report.table(report.themes(results)))
    assert truth.verdict(results) == []
