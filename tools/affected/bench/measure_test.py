from pathlib import Path

import pytest

from tools.affected.bench import big_workspace, measure
from tools.affected.bench.measure import Case, Turns, WrongAnswerError
from tools.affected.bench.participants import Participant


class Fake(Participant):
    """Names the tests that it is told to, and keeps what was done with it."""

    def __init__(self, name: str, folder: Path, answer: frozenset[str] | None, log: list[str]) -> None:
        self.name, self.folder, self.answer, self.log = name, folder, answer, log
        self.compares = answer is not None

    def new_base(self, turn: int) -> None:
        self.log.append(f"{self.name} base")

    def head(self, edits: object) -> None:
        self.log.append(f"{self.name} head {edits}")

    def run(self) -> frozenset[str] | None:
        self.log.append(f"{self.name} run")
        return self.answer


@pytest.fixture(scope="module")
def workspace() -> big_workspace.Workspace:
    return big_workspace.plan(160)


LEAF = Case("warm", "cached", "a leaf library")


def test_rows_hold_every_run_and_what_was_found(tmp_path: Path, workspace: big_workspace.Workspace) -> None:
    expected = workspace.dependents(workspace.leaf)
    log: list[str] = []
    both = [Fake("query", tmp_path, None, log), Fake("ours", tmp_path, expected, log)]
    steps: list[int] = []
    rows = Turns(workspace, exact=["ours"]).rows(both, LEAF, 3, lambda: steps.append(1))
    assert [(row.participant, row.expected, row.found, len(row.seconds)) for row in rows] == [
        ("query", len(expected), None, 3),
        ("ours", len(expected), len(expected), 3),
    ]
    assert len(steps) == 6
    order = [line.split()[0] for line in log if line.endswith("run")]
    assert order == ["query", "ours", "ours", "query", "query", "ours"]
    heads = [line for line in log if " head " in line]
    assert len(set(heads)) == len(heads)


def test_a_base_is_new_only_where_the_case_says_so(tmp_path: Path, workspace: big_workspace.Workspace) -> None:
    log: list[str] = []
    turns = Turns(workspace, exact=[])
    fake = Fake("two graphs", tmp_path, workspace.tests, log)
    turns.run(fake, LEAF)
    assert "two graphs base" not in log
    turns.run(fake, Case("warm", "new", "a leaf library"))
    assert log.count("two graphs base") == 1


def test_a_missed_test_ends_the_measurement(tmp_path: Path, workspace: big_workspace.Workspace) -> None:
    with pytest.raises(WrongAnswerError, match=r"two graphs, .* 1 of them are missing \['//layer7/p7:t8'\], 0 are too"):
        Turns(workspace, exact=[]).run(Fake("two graphs", tmp_path, frozenset(), []), LEAF)


def test_a_test_too_many_ends_it_only_where_the_answer_is_exact(
    tmp_path: Path, workspace: big_workspace.Workspace
) -> None:
    turns = Turns(workspace, exact=["ours"])
    turns.run(Fake("two graphs", tmp_path, workspace.tests, []), LEAF)
    with pytest.raises(WrongAnswerError, match="79 are too many"):
        turns.run(Fake("ours", tmp_path, workspace.tests, []), LEAF)


def test_who_takes_part(tmp_path: Path) -> None:
    everyone = [Fake(name, tmp_path, answer, []) for name, answer in (("query", None), ("ours", frozenset()))]
    command = Fake("command", tmp_path, frozenset(), [])
    command.measured_cold = False
    names = {
        (case.server, case.base): [each.name for each in measure.taking_part([*everyone, command], case)]
        for server in measure.SERVERS
        for case in measure.cases(server)
    }
    assert names == {
        ("warm", "cached"): ["query", "ours", "command"],
        ("warm", "new"): ["ours", "command"],
        ("cold", "cached"): ["query", "ours"],
        ("cold", "new"): ["ours"],
    }
