import pytest

from tools.remote.timeline.attempts import Attempt, Phase
from tools.remote.timeline.totals import totals


def attempt(label, worker, queued, ran, pool="cpu", status="PASSED"):
    """One that Bazel sent at 99, that was queued at 100 and ran right after."""
    phases = (
        Phase("sent", 99.0, 1.0),
        Phase("queued", 100.0, queued),
        Phase("staged", 100.0 + queued, 0.5),
        Phase("ran", 100.5 + queued, ran),
        Phase("uploaded", 100.5 + queued + ran, 0.5),
    )
    return Attempt(label, 0, 1, 1, status, "remote", worker, pool, 99.0, phases)


def test_busy_seconds_are_those_on_the_worker():
    first, second = totals(
        [
            attempt("//a", "cpu-1", 0.0, 3.0),
            attempt("//b", "cpu-1", 4.0, 1.0, status="FAILED"),
            attempt("//c", "cpu-2", 1.0, 1.0),
            attempt("//d", "gpu-1", 0.0, 1.0, pool="gpu"),
        ]
    )
    assert (first.pool, first.attempts, first.failed, first.workers) == ("cpu", 3, 1, 2)
    assert (first.busy, first.span) == pytest.approx((8.0, 6.0))
    assert first.utilisation == pytest.approx(8 / 12)
    assert (first.longest_queue, first.longest_queue_name) == (4.0, "//b")
    assert (second.pool, second.utilisation) == ("gpu", pytest.approx(1.0))


def test_results_of_a_cache_kept_no_worker_busy():
    (total,) = totals([Attempt("//a", 0, 1, 1, "PASSED", "remote cache", "", "gpu", 5.0)])
    assert (total.place, total.attempts, total.workers, total.busy, total.utilisation) == (
        "remote cache",
        1,
        0,
        0,
        None,
    )
    assert total.longest_queue is None
