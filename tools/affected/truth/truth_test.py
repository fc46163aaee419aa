"""The kinds of change that matter most, of those that the benchmark tries, in one configuration."""

from pathlib import Path

from tools.affected.truth import harness, report, truth
from tools.affected.truth.changes import KINDS
from tools.bazel import host_bazel

CASES = [
    "library source#0",
    "new file in a glob#0",
    "exec bit#0",
    "comment in a BUILD file#0",
    "macro edit that changes some callers#0",
    "wheel of a closure bumped#0",
    "descriptive tag#0",
    "syntax error in a BUILD file#0",
]


def test_selector_and_bazel_agree(tmp_path: Path) -> None:
    cases = [harness.find_case(KINDS, name) for name in CASES]
    stage = truth.on_synthetic(host_bazel.short_lived_command(), tmp_path, ["default"])
    results = truth.run(stage, cases, seed=1)
    assert truth.verdict(results) == []
    assert report.scores(results)["all"].tried == len(CASES)
