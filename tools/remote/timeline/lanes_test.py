from tools.remote.timeline import lanes
from tools.remote.timeline.attempts import Attempt, Phase


def attempt(start, seconds, worker="", place="local"):
    return Attempt("//a:t", 0, 1, 1, "PASSED", place, worker, "cpu", start, (Phase("ran", start, seconds),))


def test_local_attempts_take_as_few_slots_as_hold_them():
    first, beside, after, last = attempt(0, 2), attempt(1, 3), attempt(2, 1), attempt(5, 1)
    assert lanes.of_workers([last, after, beside, first]) == {"local 1": [first, after, last], "local 2": [beside]}


def test_nameless_workers_are_as_many_as_it_must_have_been():
    first, beside, after = (attempt(start, 2, "", "remote") for start in (0, 1, 2))
    assert lanes.of_workers([first, beside, after]) == {"cpu 1": [first, after], "cpu 2": [beside]}


def test_workers_are_in_order_and_slots_last():
    attempts = [attempt(0, 1), *(attempt(0, 1, name, "remote") for name in ("cpu-10", "gpu-1", "cpu-2"))]
    assert list(lanes.of_workers(attempts)) == ["cpu-2", "cpu-10", "gpu-1", "local 1"]


def test_what_came_from_a_cache_kept_nobody():
    cached = Attempt("//a:t", 0, 1, 1, "PASSED", "remote cache", "", "cpu", 0)
    assert lanes.of_workers([cached]) == {}


def test_attempts_without_a_time_stand_in_no_lane():
    waited, at_once = attempt(0, 1), attempt(1, 1)
    assert lanes.pack([waited, at_once], lambda each: (0, 1) if each is waited else None) == [[waited]]
