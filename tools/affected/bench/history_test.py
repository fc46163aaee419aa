from pathlib import Path

import pytest

from tools.affected import selection
from tools.affected.bench import history, history_report
from tools.affected.bench.big_workspace import commit, git
from tools.affected.bench.history_report import Commit

SIDE = selection.Side("x", "0", False)


def answer(affected: int, unaffected: int, everything: str | None = None) -> selection.Selection:
    tests = [selection.Test(f"//:t{i}", (), "cpu") for i in range(affected + unaffected)]
    return selection.Selection(
        base=SIDE,
        head=SIDE,
        affected=tuple(selection.Affected(test, "content") for test in tests[:affected]),
        unaffected=tuple(tests[affected:]),
        everything=everything,
    )


def test_commits_are_those_with_a_parent_oldest_first(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    for subject in ("root", "one", "a\ttab"):
        commit(tmp_path, subject)
    git(tmp_path, "checkout", "--quiet", "-b", "side", "HEAD^")
    commit(tmp_path, "aside")
    git(tmp_path, "checkout", "--quiet", "main")
    git(tmp_path, "merge", "--quiet", "--no-ff", "-m", "merged", "side")
    assert [subject for _, subject in history.commits_of(tmp_path, None)] == ["one", "a\ttab", "merged"]
    assert [subject for _, subject in history.commits_of(tmp_path, 1)] == ["merged"]


def test_an_answer_is_counted() -> None:
    assert history.judged("1", "s", answer(2, 5), 1.5, 99) == Commit("1", "s", 2, 7, 1.5)


def test_everything_is_flagged_with_its_reason() -> None:
    assert history.judged("1", "s", answer(7, 0, "base does not load"), 1.5, 99) == Commit(
        "1", "s", 7, 7, 1.5, "base does not load"
    )
    assert history.judged("1", "s", selection.SelectError("no such target\nmore"), 1.5, 99) == Commit(
        "1", "s", 99, 99, 1.5, "no such target"
    )


COMMITS = [
    Commit("aaa", "one | two", 1, 10, 1.0),
    Commit("bbb", "breaks", 10, 10, 1.0, "does not load"),
    Commit("ccc", "docs", 0, 20, 1.0),
]


def test_saved_is_the_share_of_test_runs() -> None:
    assert history_report.saved(COMMITS) == pytest.approx(1 - 11 / 40)
    assert history_report.saved([]) == 0


def test_table_by_hand() -> None:
    assert history_report.table(COMMITS) == (
        "| commit |  | selected | of tests | flagged |\n"
        "| --- | --- | ---: | ---: | --- |\n"
        "| `aaa` | one \\| two | 1 | 10 |  |\n"
        "| `bbb` | breaks | 10 | 10 | everything: does not load |\n"
        "| `ccc` | docs | 0 | 20 |  |\n"
        "| all | 72.5% saved | 11 | 40 |  |"
    )


def test_picture_flags_only_what_is_flagged(tmp_path: Path) -> None:
    for commits, flagged in ((COMMITS, True), (COMMITS[::2], False)):
        history_report.draw(commits, tmp_path / "history.svg")
        text = (tmp_path / "history.svg").read_text()
        assert ("<!-- everything, flagged" in text) == flagged
        assert "<!-- test targets -->" in text
