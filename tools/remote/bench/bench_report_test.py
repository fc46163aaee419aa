import json

from tools.remote.bench import bench_report
from tools.remote.bench.measure import CASES, LOCAL, Row

ROWS = [
    *(Row("40 small tests", LOCAL, case, 2.0, 40, {}) for case in CASES if case != "new checkout"),
    *(Row("40 small tests", "2", case, seconds, 40, {"ran": 0.5}) for case in CASES for seconds in (3.0, 5.0, 4.0)),
    Row("one torch test", "1", "first run", 7.0, 1, {}),
]


def test_table_has_a_line_for_each_case_and_a_column_for_each_way():
    table = bench_report.to_markdown(ROWS)
    assert (
        "| | local | 2 workers | 1 worker |\n|---|---|---|---|\n| first run | 2.0 (2.0 to 2.0) | 4.0 (3.0 to 5.0) | - |"
        in table
    )
    assert "| new checkout | - | 4.0 (3.0 to 5.0) | - |" in table
    assert table.count("\n| first run") == 2


def test_json_has_every_run():
    read = json.loads(bench_report.to_json(ROWS, {"cores": 2}))
    assert len(read["runs"]) == len(ROWS)
    assert read["facts"] == {"cores": 2}


def test_picture_has_a_bar_for_each_median(tmp_path):
    bench_report.draw(ROWS, tmp_path / "speed.svg")
    text = (tmp_path / "speed.svg").read_text()
    assert text.count("<!-- 4.0 -->") == len(CASES)
    assert "<!-- one torch test -->" in text
