import sys

import hypothesis
import pytest

from testing.runner.policy import Policy
from testing.runner.target import Target

pytest_plugins = ["pytester"]

TWO_TESTS = """
def test_one(): pass
def test_two(): pass
"""


@pytest.fixture
def run(pytester: pytest.Pytester):
    """Runs an inner test file under the policy; keyword arguments go to Policy or Target."""

    def run(source, *args, allowed_skips=(), hardware="cpu", devices=1, **policy):
        pytester.makepyfile(inner_test=source)
        target = Target("//inner:test", ("inner_test.py",), "unit", hardware, devices, tuple(allowed_skips))
        plugin = Policy(lambda path: target, **policy)
        return pytester.runpytest_inprocess(
            "-c/dev/null", f"--rootdir={pytester.path}", "-pno:cacheprovider", *args, "inner_test.py", plugins=[plugin]
        )

    return run


def test_green_run_is_green(run):
    result = run(TWO_TESTS)
    assert result.ret == 0
    result.assert_outcomes(passed=2)


def test_no_test_is_red(run):
    result = run("x = 1")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["no test ran: the files hold none*"])


def test_collecting_only_judges_nothing(run):
    result = run("import pytest\n@pytest.mark.skip\ndef test_a(): pass", "--collect-only")
    assert result.ret == 0


# Skips


@pytest.mark.parametrize(
    "body",
    [
        "import pytest\n@pytest.mark.skip(reason='no network')\ndef test_a(): pass",
        "import pytest\n@pytest.mark.skipif(True, reason='no network')\ndef test_a(): pass",
        "import pytest\ndef test_a(): pytest.skip('no network')",
        "import pytest\n@pytest.fixture\ndef f(): pytest.skip('no network')\ndef test_a(f): pass",
        "import pytest\n@pytest.mark.xfail(run=False, reason='no network')\ndef test_a(): pass",
        "import unittest\nclass TestA(unittest.TestCase):\n  def test_a(self): self.skipTest('no network')",
        "import pytest\npytest.skip('no network', allow_module_level=True)",
        "def test_a(subtests):\n  import pytest\n  with subtests.test(): pytest.skip('no network')",
    ],
    ids=["mark", "skipif", "call", "fixture", "xfail-not-run", "unittest", "module", "subtest"],
)
class TestSkip:
    def test_undeclared_skip_is_red_and_names_test_and_reason(self, run, body):
        result = run(body + "\ndef test_runs(): pass")
        # A module that cannot be collected interrupts the run.
        assert result.ret in (1, 2)
        result.stdout.fnmatch_lines(["*inner_test.py* skipped for a reason that is not in allowed_skips: 'no network'"])

    @pytest.mark.parametrize("allowed", ["no network", "no net*"])
    def test_allowed_skip_beside_a_test_that_runs_is_green(self, run, body, allowed, pytester):
        pytester.makepyfile(other_test="def test_runs(): pass")
        result = run(body, "other_test.py", allowed_skips=[allowed])
        assert result.ret == 0, result.stdout.str()


def test_all_skipped_is_red_though_each_skip_is_allowed(run):
    result = run("import pytest\n@pytest.mark.skip(reason='slow')\ndef test_a(): pass", allowed_skips=["slow"])
    assert result.ret == 1
    result.stdout.fnmatch_lines(["//inner:test: no test ran, all 1 skipped*"])


def test_module_skipped_as_a_whole_is_red_though_allowed(run):
    result = run("import pytest\npytest.skip('slow', allow_module_level=True)", allowed_skips=["slow"])
    assert result.ret == 1
    result.stdout.fnmatch_lines(["//inner:test: no test ran, all 1 skipped*"])


def test_reason_matches_whole_and_not_as_a_part(run):
    source = "import pytest\n@pytest.mark.skip(reason='slow machine')\ndef test_a(): pass\ndef test_b(): pass"
    assert run(source, allowed_skips=["slow"]).ret == 1


def test_expected_failure_counts_as_run(run):
    result = run("import pytest\n@pytest.mark.xfail(reason='bug')\ndef test_a(): assert False")
    assert result.ret == 0


# Filters


CASES = """
import pytest
@pytest.mark.parametrize("n", [1, 2, 12])
def test_sum(n): pass
class TestShape:
    def test_sum(self): pass
    def test_rank(self): pass
"""


@pytest.mark.parametrize(
    ("test_filter", "passed"),
    [
        ("test_rank", 1),
        ("sum", 4),
        ("sum and not TestShape", 3),
        ("TestShape", 2),
        ("TestShape.test_sum", 1),
        ("TestShape::test_sum", 1),
        ("inner_test.py::test_sum", 3),
        ("inner_test.py", 5),
        ("test_sum[2]", 1),
        ("inner_test.py::test_sum[12]", 1),
    ],
)
def test_filter_selects(run, test_filter, passed):
    result = run(CASES, test_filter=test_filter)
    result.assert_outcomes(passed=passed, deselected=5 - passed)


@pytest.mark.parametrize("test_filter", ["test_nothing", "TestShape.test_nothing", "test_sum[3]", "est_sum[2]"])
def test_filter_that_matches_nothing_is_red_and_names_the_tests(run, test_filter):
    result = run(CASES, test_filter=test_filter)
    assert result.ret != 0
    result.stderr.fnmatch_lines(
        [f"*--test_filter={test_filter.replace('[', '[[]')} matches no test*", "*inner_test.py::TestShape::test_rank"]
    )


def test_filter_that_is_no_expression_is_red(run):
    result = run(CASES, test_filter="sum and")
    assert result.ret != 0
    result.stderr.fnmatch_lines(["*--test_filter=sum and: neither a test name nor an expression*"])


# Shards


def _passed(result):
    return result.parseoutcomes().get("passed", 0)


@pytest.mark.parametrize("shards", [2, 3, 5])
def test_shards_divide_the_tests(run, shards):
    results = [run(CASES, shard=i, shards=shards) for i in range(shards)]
    assert [r.ret for r in results] == [0] * shards
    assert sum(_passed(r) for r in results) == 5
    assert max(_passed(r) for r in results) - min(_passed(r) for r in results) <= 1


def test_shard_without_a_test_is_green_when_others_have_one(run):
    results = [run(TWO_TESTS, shard=i, shards=3) for i in range(3)]
    assert [r.ret for r in results] == [0, 0, 0]
    assert [_passed(r) for r in results] == [1, 1, 0]


def test_every_shard_is_red_when_the_target_has_no_test(run):
    assert [run("x = 1", shard=i, shards=2).ret for i in range(2)] == [1, 1]


def test_every_shard_is_red_when_all_tests_skip(run):
    source = "import pytest\npytestmark = pytest.mark.skip(reason='slow')\ndef test_a(): pass\ndef test_b(): pass"
    assert [run(source, allowed_skips=["slow"], shard=i, shards=2).ret for i in range(2)] == [1, 1]


def test_tests_that_skip_never_fill_a_shard_that_another_test_could_fill(run):
    source = (
        "import pytest\n@pytest.mark.skip(reason='slow')\ndef test_a(): pass\ndef test_b(): pass\n"
        "@pytest.mark.skip(reason='slow')\ndef test_c(): pass\ndef test_d(): pass"
    )
    results = [run(source, allowed_skips=["slow"], shard=i, shards=2) for i in range(2)]
    assert [(r.ret, _passed(r)) for r in results] == [(0, 1), (0, 1)]


def test_shard_whose_tests_skip_while_they_run_is_red(run):
    source = "import pytest\ndef test_a(): pass\ndef test_b(): pytest.skip('slow')"
    assert [run(source, allowed_skips=["slow"], shard=i, shards=2).ret for i in range(2)] == [0, 1]


# World sizes, markers, warnings


@pytest.fixture(autouse=True)
def torch_not_imported(monkeypatch):
    """The inner runs are in this process, where tests of other files may have imported torch."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)


RANKS = """
import pytest
@pytest.mark.parametrize("n", [pytest.param(n, marks=pytest.mark.world_size(n)) for n in (1, 2, 4, 8)])
def test_ranks(n): pass
"""


@pytest.mark.parametrize(
    ("hardware", "devices", "passed"), [("cpu", 1, 4), ("gpu", 2, 2), ("gpu", 8, 4), ("trainium", 4, 3)]
)
def test_world_sizes_beyond_the_devices_are_deselected(run, hardware, devices, passed):
    result = run(RANKS, hardware=hardware, devices=devices)
    assert result.ret == 0
    result.assert_outcomes(passed=passed, deselected=4 - passed)


def test_world_sizes_that_all_exceed_the_devices_are_red(run):
    result = run("import pytest\n@pytest.mark.world_size(4)\ndef test_a(): pass", hardware="gpu", devices=2)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["no test ran*"])


@pytest.mark.parametrize(("cuda", "hardware", "code"), [(None, "gpu", 1), ("13.0", "gpu", 0), (None, "cpu", 0)])
def test_gpu_run_with_a_torch_without_cuda_is_red(run, cuda, hardware, code):
    source = (
        f"import sys, types\nsys.modules['torch'] = types.SimpleNamespace(version=types.SimpleNamespace(cuda={cuda!r}))"
    )
    result = run(f"{source}\ndef test_a(): pass", hardware=hardware)
    assert result.ret == code
    if code:
        result.stdout.fnmatch_lines(["torch is a build without CUDA*"])


@pytest.mark.parametrize(
    ("hardware", "devices", "expression", "passed"),
    [
        ("gpu", 1, "gpu and not multi_gpu", 2),
        ("gpu", 2, "multi_gpu", 2),
        ("cpu", 2, "unit and cpu", 2),
        ("trainium", 2, "trainium", 2),
        ("gpu", 2, "cpu", 0),
    ],
)
def test_markers_come_from_the_declaration(run, hardware, devices, expression, passed):
    result = run(TWO_TESTS, "-m", expression, hardware=hardware, devices=devices)
    assert _passed(result) == passed


def test_marker_set_by_hand_is_refused(run):
    result = run("import pytest\n@pytest.mark.gpu\ndef test_a(): pass")
    assert result.ret != 0
    result.stderr.fnmatch_lines(["*test_a is marked 'gpu'*BUILD.bazel; remove the mark"])


def test_warning_is_an_error(run):
    result = run("import warnings\ndef test_a(): warnings.warn('old', DeprecationWarning)")
    assert result.ret == 1
    result.assert_outcomes(failed=1)


def test_hypothesis_draws_the_same_examples_in_each_run(run, pytester):
    source = """
from pathlib import Path
from hypothesis import given, strategies as st
@given(st.integers())
def test_a(n):
    with open("drawn.txt", "a") as drawn: drawn.write(f"{n} ")
"""
    drawn = pytester.path / "drawn.txt"
    assert hypothesis.settings.default.database is None
    runs = []
    for _ in range(2):
        assert run(source).ret == 0
        runs.append(drawn.read_text())
        drawn.unlink()
    assert runs[0] == runs[1]
    assert not (pytester.path / ".hypothesis").exists()
