import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from tools.remote.timeline import build_events, jobs, picture, recorded, report
from tools.remote.timeline.attempts import in_order

EXAMPLE = Path(__file__).with_name("example")


@pytest.fixture
def attempts():
    found, _ = build_events.read(EXAMPLE / "remote_events.json")
    found = recorded.merge(found, jobs.parse(json.loads((EXAMPLE / "jobs.json").read_text())))
    cached, _ = build_events.read(EXAMPLE / "remote_cache_events.json")
    return in_order([*cached, *found])


def test_table_is_in_order_of_start_and_ends_with_totals(attempts):
    file = io.StringIO()
    report.show(Console(file=file, width=140), attempts)
    text = file.getvalue()
    places = [text.index(name) for name in ("checkpoint", "resume", "flaky_test ", "(attempt 2)", "sampler")]
    assert places == sorted(places)
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if "│" in line]
    assert ["//:sampler_test", "cpu", "remote cache", "PASSED", *"-------"] in rows
    assert ["remote", "gpu", "1", "0", "1"] in [row[:5] for row in rows]
    assert ["remote", "cpu", "7", "2", "2"] in [row[:5] for row in rows]


def test_json_says_null_where_nobody_knows(attempts):
    read = json.loads(report.as_json(attempts, "some-id"))
    assert read["invocation"] == "some-id"
    assert [each["seconds"]["ran"] for each in read["attempts"] if each["place"] == "remote cache"] == [None]
    assert sum(each["attempts"] for each in read["totals"]) == len(attempts) == 9


def test_picture_has_a_row_for_each_worker_and_queue(attempts, tmp_path):
    picture.draw(attempts, tmp_path / "timeline.svg")
    text = (tmp_path / "timeline.svg").read_text()
    for name in ("cpu: queued", "gpu: queued", "cpu-1", "cpu-2", "gpu-1", "checkpoint_test", "failed"):
        assert f"<!-- {name} -->" in text
    assert "<!-- 8 attempts that ran, 1 results from caches -->" in text


def test_picture_of_a_local_run_shares_the_slots_of_all_pools(tmp_path):
    found, _ = build_events.read(EXAMPLE / "local_events.json")
    picture.draw(found, tmp_path / "timeline.svg")
    assert "<!-- local 1 -->" in (tmp_path / "timeline.svg").read_text()


def test_nothing_to_draw(attempts, tmp_path):
    with pytest.raises(ValueError, match="all 1 results are from caches; run with --nocache_test_results"):
        picture.draw([each for each in attempts if each.cached], tmp_path / "timeline.svg")
