"""The pytest plugin that lets no test pass silently: skips, empty runs, shards, filters and world sizes."""

import collections
import re
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import pytest

from testing.runner import settings
from testing.runner.target import HARDWARE, TIERS, Target

_DERIVED_MARKERS = {*TIERS, *HARDWARE, "multi_gpu"}


class Policy:
    """Judges a run by what its declarations say.

    Args:
        find_target: the declaration of a test file.
        test_filter: what `--test_filter` asks for: a node id, a part of one (`TestA::test_b`, `TestA.test_b`,
            `test_b[4]`) or an expression as for pytest's `-k`; empty for all tests.
        shard: this process's index among `shards`.
        shards: among how many processes the tests are divided.
    """

    def __init__(
        self, find_target: Callable[[Path], Target], test_filter: str = "", shard: int = 0, shards: int = 1
    ) -> None:
        self.find_target = find_target
        self.test_filter = test_filter
        self.shard = shard
        self.shards = shards
        self.problems: list[str] = []
        self.world_sizes: set[int] = set()
        self._selected: collections.Counter[Target] = collections.Counter()
        self._ran: collections.Counter[Target] = collections.Counter()
        self._skipped: collections.Counter[Target] = collections.Counter()
        self._target_of_node: dict[str, Target] = {}
        self._green_empty_shard = False

    def pytest_configure(self, config: pytest.Config) -> None:
        """Applies the settings of the repo."""
        settings.configure(config)

    # Selection

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Derives the markers, so that `-m` sees them."""
        for item in items:
            by_hand = sorted({mark.name for mark in item.iter_markers()} & _DERIVED_MARKERS)
            if by_hand:
                raise pytest.UsageError(
                    f"{item.nodeid} is marked {by_hand[0]!r}: tier and hardware are said once, "
                    f"in the trainer_test of its BUILD.bazel; remove the mark"
                )
            for marker in self.find_target(item.path).markers:
                item.add_marker(marker)

    @pytest.hookimpl(specname="pytest_collection_modifyitems", trylast=True)
    def pytest_select(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leaves the tests that this process runs, after pytest's own -k and -m."""
        collected = list(items)
        kept = [item for item in items if self._has_devices(item)]
        kept = self._filtered(kept, collected)
        some_run = any(not _skips_statically(item) for item in kept)
        mine = self._shard_of(kept)
        self._green_empty_shard = self.shards > 1 and some_run and all(_skips_statically(item) for item in mine)
        dropped = set(items) - set(mine)
        if dropped:
            config.hook.pytest_deselected(items=[item for item in items if item in dropped])
        items[:] = mine
        for item in mine:
            target = self.find_target(item.path)
            self._target_of_node[item.nodeid] = target
            self._selected[target] += 1
            self.world_sizes.update(_world_sizes(item))

    def _has_devices(self, item: pytest.Item) -> bool:
        target = self.find_target(item.path)
        return target.hardware == "cpu" or all(n <= target.devices for n in _world_sizes(item))

    def _filtered(self, items: Sequence[pytest.Item], collected: Sequence[pytest.Item]) -> list[pytest.Item]:
        if not self.test_filter:
            return list(items)
        kept = [item for item in items if _matches(item, self.test_filter)]
        if not kept:
            names = "\n  ".join(item.nodeid for item in collected) or "(none)"
            raise pytest.UsageError(
                f"--test_filter={self.test_filter} matches no test; the tests of this target are:\n  {names}"
            )
        return kept

    def _shard_of(self, items: Sequence[pytest.Item]) -> list[pytest.Item]:
        """Every n-th test, those known to skip dealt last, so that they fill no shard alone."""
        if self.shards == 1:
            return list(items)
        dealt = sorted(items, key=_skips_statically)
        mine = set(dealt[self.shard :: self.shards])
        return [item for item in items if item in mine]

    # Skips

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Makes a skip that the declaration does not list a failure."""
        report = yield
        reason = _skip_reason(report)
        if reason is not None:
            self._judge_skip(report, self.find_target(item.path), reason)
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """The same for a module that skips as a whole."""
        report = yield
        reason = _skip_reason(report)
        if reason is not None and isinstance(collector, pytest.Module):
            target = self.find_target(collector.path)
            self._judge_skip(report, target, reason)
            self._selected[target] += 1
            self._skipped[target] += 1
        return report

    def _judge_skip(self, report: pytest.TestReport | pytest.CollectReport, target: Target, reason: str) -> None:
        if target.allows_skip(reason):
            return
        report.outcome = "failed"
        report.longrepr = (
            f"{report.nodeid} skipped: {reason!r}\n"
            f"A skip counts as a failure unless {target.name} lists its reason: mend the test, restrict the "
            f"declaration's hardware, or add the reason to allowed_skips in its BUILD.bazel."
        )
        self.problems.append(f"{report.nodeid} skipped for a reason that is not in allowed_skips: {reason!r}")

    # Verdict

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Counts what ran."""
        target = self._target_of_node.get(report.nodeid)
        if target is None:
            return
        if _skip_reason(report) is not None:
            self._skipped[target] += 1
        elif report.when == "call" or report.failed:
            self._ran[target] += 1

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Turns a run without a test red, and a shard that has none by chance green."""
        if session.config.option.collectonly or exitstatus not in (
            pytest.ExitCode.OK,
            pytest.ExitCode.NO_TESTS_COLLECTED,
        ):
            return
        if not self._selected and not self._green_empty_shard:
            self.problems.append("no test ran: the files hold none, or all were deselected")
        if not self._green_empty_shard:
            self.problems.extend(
                f"{target.name}: no test ran, all {self._skipped[target]} skipped; a target must run at least one"
                for target in self._selected
                if not self._ran[target]
            )
        if any(target.hardware == "gpu" for target in self._selected) and _torch_lacks_cuda():
            self.problems.append(
                "torch is a build without CUDA, so these tests have not used the GPU: "
                "under Bazel choose the wheels with --config=gpu, else install a CUDA build"
            )
        if self.problems:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        elif self._green_empty_shard:
            session.exitstatus = pytest.ExitCode.OK

    # (Quoted: pytest before 8.4 does not export the type.)
    def pytest_terminal_summary(self, terminalreporter: "pytest.TerminalReporter") -> None:
        """Says why a run is red though no test failed."""
        if self.problems:
            terminalreporter.section("policy", sep="=", red=True, bold=True)
            for problem in self.problems:
                terminalreporter.line(problem, red=True)
        elif self._green_empty_shard and not self._ran:
            terminalreporter.line(f"Shard {self.shard} of {self.shards} has no test to run; others do.")


def _torch_lacks_cuda() -> bool:
    """Whether the tests imported a torch that cannot use a GPU; asks nothing that would initialise CUDA."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.version.cuda is None


def _world_sizes(item: pytest.Item) -> list[int]:
    return [int(mark.args[0]) for mark in item.iter_markers("world_size")]


def _skips_statically(item: pytest.Item) -> bool:
    """Whether marks alone, before anything runs, say that the test skips."""
    return any(True for _ in item.iter_markers("skip")) or any(
        mark.args and mark.args[0] is True for mark in item.iter_markers("skipif")
    )


def _skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str | None:
    """Why a test did not run; None if it ran (an expected failure did) or has not been reported yet."""
    if not report.skipped:
        return None
    expected_failure = getattr(report, "wasxfail", None)
    if expected_failure is not None:
        not_run = re.match(r"(?:reason: )?\[NOTRUN\] ?(.*)", expected_failure, re.DOTALL)
        return not_run[1] if not_run else None
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return reason.removeprefix("Skipped: ")


def _matches(item: pytest.Item, test_filter: str) -> bool:
    """Whether a test is meant by `--test_filter`."""
    if re.search(r"::|\[|\.", test_filter):
        wanted = test_filter
        if "::" not in wanted and ".py" not in wanted:
            head, bracket, parameters = wanted.partition("[")
            wanted = head.replace(".", "::") + bracket + parameters
        node = "::" + item.nodeid.replace("/", "::")
        wanted = "::" + wanted.replace("/", "::")
        return any(
            candidate.endswith(wanted) or f"{wanted}::" in candidate for candidate in (node, node.partition("[")[0])
        )
    names = {*item.listextrakeywords(), *(node.name for node in item.listchain())}
    lowered = [name.lower() for name in names]
    return _evaluate(test_filter, lambda word: any(word.lower() in name for name in lowered))


def _evaluate(expression: str, holds: Callable[[str], bool]) -> bool:
    """Evaluates words joined by and, or, not and parentheses."""
    tokens = re.findall(r"\(|\)|[^\s()]+", expression)
    python = " ".join(token if token in ("and", "or", "not", "(", ")") else str(holds(token)) for token in tokens)
    try:
        return bool(eval(python, {"__builtins__": {}}))
    except SyntaxError:
        raise pytest.UsageError(
            f"--test_filter={expression}: neither a test name nor an expression such as 'fast and not bias'"
        ) from None
