import json
from pathlib import Path

import pytest

from tools.remote.timeline import build_events, jobs, recorded

# The database's answer for the run of the events.
EXAMPLE = Path(__file__).with_name("example")


def test_each_attempt_learns_its_worker():
    attempts, _ = build_events.read(EXAMPLE / "remote_events.json")
    merged = recorded.merge(attempts, jobs.parse(json.loads((EXAMPLE / "jobs.json").read_text())))
    assert {each.name: each.worker for each in merged} == {
        "//:attention_test_gpu": "gpu-1",
        "//:checkpoint_test": "cpu-2",
        "//:flaky_test": "cpu-2",
        "//:flaky_test (attempt 2)": "cpu-1",
        "//:resume_test": "cpu-1",
        **{f"//:tensor_parallel_test (shard {i})": "cpu-1" for i in (1, 2, 3)},
    }
    assert {each.tries for each in merged} == {1}


def test_times_agree_with_the_events():
    attempts, _ = build_events.read(EXAMPLE / "remote_events.json")
    merged = recorded.merge(attempts, jobs.parse(json.loads((EXAMPLE / "jobs.json").read_text())))
    for was, now in zip(attempts, merged, strict=True):
        for name in ("queued", "staged", "ran", "uploaded"):
            assert now.seconds(name) == pytest.approx(was.seconds(name), abs=0.02), (was.name, name)
        assert now.on_worker()[0] == pytest.approx(was.on_worker()[0], abs=1)


def test_database_that_is_not_there(tmp_path):
    psql = tmp_path / "psql"
    psql.write_text("#!/bin/sh\necho 'no such socket' >&2\nexit 2\n")
    psql.chmod(0o755)
    with pytest.raises(
        ValueError, match="does not answer: no such socket; bring the cluster up, or leave out --cluster"
    ):
        jobs.read(psql, tmp_path, "some-id")
