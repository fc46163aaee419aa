import dataclasses
from pathlib import Path

import pytest

from tools.affected.bench import speed_picture, speed_report
from tools.affected.bench.measure import Case, Row
from tools.affected.bench.speed_report import Memory, Size

LEAF = "a leaf library"
CACHED, NEW = Case("warm", "cached", LEAF), Case("warm", "new", LEAF)


def size(targets: int, query: float, ours: float) -> Size:
    return Size(
        targets=targets,
        tests=targets // 2,
        rows=(
            Row("query", CACHED, (query, query * 3, query / 2), 4, None),
            Row("ours", CACHED, (ours,), 4, 4),
            Row("two graphs", CACHED, (2 * query,), 4, 9),
            Row("ours", NEW, (3 * ours,), 4, 4),
            Row("two graphs", NEW, (4 * query,), 4, 9),
        ),
        memory={"query": Memory(700.4, None), "ours": Memory(1200, 80)},
        warm_up={"query": (2.0, 1.0)},
    )


SIZES = [size(500, 1.0, 1.5), size(5000, 10.0, 30.0)]


def test_times_by_hand() -> None:
    assert speed_report.times(SIZES[0], "warm", "cached") == (
        "| change | affected | query, s | ours, s | two graphs, s | ours / query | two graphs / query |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| a leaf library | 4 | 1.00 (0.50 to 3.00) | 1.50 (1.50 to 1.50) | 2.00 (2.00 to 2.00) | 1.50 | 2.00 |"
    )


def test_a_query_takes_the_same_with_any_base() -> None:
    assert SIZES[0].ratio("ours", NEW) == 4.5
    row = SIZES[0].row("query", NEW)
    assert row is not None and row.case == CACHED


def test_what_was_not_measured_has_no_number() -> None:
    assert speed_report.times(SIZES[0], "cold", "cached") == ""
    only_cached = dataclasses.replace(SIZES[0], rows=SIZES[0].rows[:3])
    assert only_cached.row("ours", CACHED) is not None
    assert only_cached.row("ours", NEW) is None
    assert SIZES[0].ratio("ours", Case("cold", "new", LEAF)) is None


def test_goals_are_judged_at_every_size() -> None:
    *_, line = speed_report.goals(SIZES, ["ours"]).splitlines()
    assert line == "| ours | a leaf library | 1.50 at 500, 3.00 at 5,000 | **no** | 1.30 | **no** |"
    *_, line = speed_report.goals([SIZES[0], size(5000, 10.0, 15.0)], ["ours"]).splitlines()
    assert line == "| ours | a leaf library | 1.50 at 500, 1.50 at 5,000 | yes | 1.00 | yes |"


def test_growth_needs_two_sizes() -> None:
    assert speed_report.growth(SIZES[:1], "ours", CACHED) is None
    assert speed_report.growth(SIZES, "query", CACHED) == pytest.approx(1)


def test_report_has_each_table_once() -> None:
    text = speed_report.report(SIZES, ["ours"])
    assert text.count("Server warm, base cached") == text.count("Server warm, base new") == 2
    assert "Server cold" not in text
    assert "| a leaf library | 4 | 4 | 9 |" in text
    assert "| 500 | query | 700 |  |" in text
    assert "| 5,000 | ours | 1,200 | 80 |" in text


def test_json_holds_everything() -> None:
    assert speed_report.from_json(speed_report.to_json(SIZES, {"cores": 2})) == SIZES


def test_picture_shows_every_participant_change_and_the_goal(tmp_path: Path) -> None:
    speed_picture.draw(SIZES, tmp_path / "speed.svg")
    text = (tmp_path / "speed.svg").read_text()
    for word in ("query", "ours", "two graphs", "goal 1.5", "seconds (median, least to most)", "5,000", LEAF):
        assert f"<!-- {word} -->" in text
