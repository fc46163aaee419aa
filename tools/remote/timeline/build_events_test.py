from pathlib import Path

import pytest

from tools.remote.timeline import build_events
from tools.remote.timeline.attempts import PHASES

# Events of real runs with Bazel 7.7.1 and BuildGrid 0.4.4, less what nobody reads.
EXAMPLE = Path(__file__).with_name("example")


def test_remote_attempts():
    attempts, invocation = build_events.read(EXAMPLE / "remote_events.json")
    assert invocation == "2d94fa1b-57ac-438b-a12b-d68c48417a2e"
    assert {(each.name, each.status, each.place, each.pool) for each in attempts} == {
        ("//:attention_test_gpu", "PASSED", "remote", "gpu"),
        ("//:checkpoint_test", "PASSED", "remote", "cpu"),
        ("//:flaky_test", "FAILED", "remote", "cpu"),
        ("//:flaky_test (attempt 2)", "PASSED", "remote", "cpu"),
        ("//:resume_test", "FAILED", "remote", "cpu"),
        *((f"//:tensor_parallel_test (shard {i})", "PASSED", "remote", "cpu") for i in (1, 2, 3)),
    }


def test_remote_phases_follow_each_other():
    attempts, _ = build_events.read(EXAMPLE / "remote_events.json")
    (checkpoint,) = (each for each in attempts if each.label == "//:checkpoint_test")
    assert [phase.name for phase in checkpoint.phases] == list(PHASES)
    assert checkpoint.phases[0].start == checkpoint.start
    for before, after in zip(checkpoint.phases, checkpoint.phases[1:], strict=False):
        assert before.end == pytest.approx(after.start)
    assert checkpoint.seconds("ran") == 3.987
    assert checkpoint.seconds("uploaded") == 0.232


def test_of_a_local_run_nobody_says_how_long_it_waited():
    attempts, _ = build_events.read(EXAMPLE / "local_events.json")
    assert {(each.name, each.status, each.place) for each in attempts} == {
        ("//:mesh_test", "PASSED", "local"),
        ("//:resume_test", "FAILED", "local"),
    }
    assert [each.seconds("queued") for each in attempts] == [None, None]
    assert all(each.seconds("ran") for each in attempts)


@pytest.mark.parametrize("name", ["bazel_cache", "disk_cache", "remote_cache"])
def test_cached_result_kept_nobody_busy(name):
    ((cached,), _) = build_events.read(EXAMPLE / f"{name}_events.json")
    assert (cached.place, cached.cached) == (name.replace("_", " ").replace("bazel", "bazel's"), True)
    assert cached.phases == ()


def test_worker_that_a_later_bazel_names(tmp_path):
    text = (EXAMPLE / "remote_events.json").read_text()
    (tmp_path / "events.json").write_text(text.replace('"strategy": "remote"', '"strategy": "remote", "hostname": "w"'))
    assert {each.worker for each in build_events.read(tmp_path / "events.json")[0]} == {"w"}


def test_pool_is_that_of_most_devices(tmp_path):
    text = (EXAMPLE / "remote_events.json").read_text().replace('["gpu", ', '["gpu", "multi-gpu", ')
    (tmp_path / "events.json").write_text(text)
    assert {each.pool for each in build_events.read(tmp_path / "events.json")[0]} == {"cpu", "multi-gpu"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"id": {}}\n{"id', "line 2: .*after Bazel has ended"),
        ('{"id": {}}\n', "no test in it (1 events); give the events of `bazel test`"),
    ],
)
def test_file_of_something_else(tmp_path, text, says):
    (tmp_path / "events.json").write_text(text)
    with pytest.raises(ValueError, match=says.replace("(", r"\(").replace(")", r"\)")):
        build_events.read(tmp_path / "events.json")
