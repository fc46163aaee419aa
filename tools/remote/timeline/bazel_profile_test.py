import gzip
import json
from pathlib import Path

import pytest

from tools.remote.timeline import bazel_profile, build_events, recorded

# Of the same runs as the events.
EXAMPLE = Path(__file__).with_name("example")


def test_remote_phases():
    records = bazel_profile.read(EXAMPLE / "remote_profile.json")
    assert {(each.label, each.shard) for each in records} == {
        ("//:checkpoint_test", 0),
        ("//:flaky_test", 0),
        *(("//:tensor_parallel_test", shard) for shard in (1, 2, 3)),
    }
    (checkpoint,) = (each for each in records if each.label == "//:checkpoint_test")
    names = [phase.name for phase in checkpoint.phases]
    assert names[:2] == ["sent", "queued"]
    assert (names.count("ran"), "staged" in names) == (1, True)


def test_each_attempt_is_a_record_and_so_is_what_writes_test_xml():
    """Three attempts at a test that writes no test.xml: another program made it of each."""
    records = bazel_profile.read(EXAMPLE / "remote_profile_no_xml.json")
    assert [round(each.ran.seconds, 3) for each in records] == [0.472, 0.212, 0.614, 0.503, 0.061]


def test_waiting_for_a_connection_is_not_staging():
    first = bazel_profile.read(EXAMPLE / "remote_profile_no_xml.json")[0]
    assert [phase.name for phase in first.phases] == ["sent", "queued", "staged", "staged", "ran", "fetched"]
    assert [phase.seconds for phase in first.phases if phase.name == "staged"] == pytest.approx([0.533, 0.117])


def test_attempts_of_which_only_the_run_took_50_ms(tmp_path):
    head = {"ph": "X", "tid": 7}
    run = {**head, "cat": "Remote execution process wall time", "name": "execute", "dur": 60_000}
    test = {**head, "cat": "action processing", "name": "Testing //a:t (shard 2 of 3)", "ts": 0, "dur": 500_000}
    events = [test, {**run, "ts": 100_000}, {**run, "ts": 300_000}]
    trace = {"otherData": {"date": "2026-11-26T18:00:00Z"}, "traceEvents": events}
    (tmp_path / "profile.json").write_text(json.dumps(trace))
    records = bazel_profile.read(tmp_path / "profile.json")
    assert [(each.shard, round(each.ran.start % 1, 3)) for each in records] == [(2, 0.1), (2, 0.3)]


def test_local_phases():
    records = bazel_profile.read(EXAMPLE / "local_profile.json")
    # (each a second time: these tests write no test.xml)
    assert sorted(each.label for each in records) == ["//:mesh_test"] * 2 + ["//:resume_test"] * 2
    assert all({"staged", "ran", "uploaded"} <= {phase.name for phase in each.phases} for each in records)


# The events leave out what Bazel waits for: a free connection, and of a local test free cores.
@pytest.mark.parametrize(("kind", "apart"), [("remote", 1.0), ("local", 2.0)])
def test_profile_agrees_with_the_events(kind, apart):
    records = bazel_profile.read(EXAMPLE / f"{kind}_profile.json")
    attempts, _ = build_events.read(EXAMPLE / f"{kind}_events.json")
    merged = recorded.merge(attempts, records)
    found = [(was, now) for was, now in zip(attempts, merged, strict=True) if was != now]
    assert {was.label for was, _ in found} == {record.label for record in records}
    for was, now in found:
        (before,), (after,) = ([phase for phase in each.phases if phase.name == "ran"] for each in (was, now))
        assert after.seconds == pytest.approx(before.seconds, abs=0.02)
        assert 0 <= after.start - before.start < apart


def test_compressed(tmp_path):
    (tmp_path / "profile.gz").write_bytes(gzip.compress((EXAMPLE / "local_profile.json").read_bytes()))
    assert bazel_profile.read(tmp_path / "profile.gz") == bazel_profile.read(EXAMPLE / "local_profile.json")


@pytest.mark.parametrize("data", [b"{}", b"\x1f\x8b torn", b"[]"])
def test_file_of_something_else(tmp_path, data):
    (tmp_path / "profile.gz").write_bytes(data)
    with pytest.raises(ValueError, match="give the file that `bazel test --profile=FILE` wrote"):
        bazel_profile.read(tmp_path / "profile.gz")


def test_waiting_for_cores_is_the_queue_of_a_local_test(tmp_path):
    head = {"ph": "X", "tid": 7}
    test = {**head, "cat": "action processing", "name": "Testing //a:t", "ts": 0, "dur": 900_000}
    lock = {**head, "cat": "action resource lock", "name": "Acquiring resources", "ts": 1, "dur": 500_000}
    run = {**head, "cat": "general information", "name": "subprocess.run", "ts": 600_000, "dur": 200_000}
    trace = {"otherData": {"date": "2026-11-26T18:00:00Z"}, "traceEvents": [test, lock, run]}
    (tmp_path / "profile.json").write_text(json.dumps(trace))
    (found,) = bazel_profile.read(tmp_path / "profile.json")
    assert [phase.name for phase in found.phases] == ["queued", "ran"]
    assert [phase.seconds for phase in found.phases] == pytest.approx([0.5, 0.2])
