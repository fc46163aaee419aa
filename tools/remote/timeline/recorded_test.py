import dataclasses

import pytest

from tools.remote.timeline.attempts import Attempt, Phase
from tools.remote.timeline.recorded import Record, merge

ATTEMPT = Attempt(
    "//a:t", 0, 1, 1, "PASSED", "remote", "cpu-1", "cpu", 10.0, (Phase("sent", 10.0, 0.1), Phase("ran", 10.1, 2.0))
)


def record(ran=2.001, start=14.0, label="//a:t", **more):
    return Record(label, (Phase("queued", start - 3, 3.0), Phase("ran", start, ran)), **more)


def test_phases_of_the_record_replace_those_of_the_attempt():
    (merged,) = merge([ATTEMPT], [record(pool="gpu", tries=2)])
    assert merged.phases == (Phase("sent", 10.0, 0.1), Phase("queued", 11.0, 3.0), Phase("ran", 14.0, 2.001))
    assert (merged.pool, merged.tries) == ("gpu", 2)


@pytest.mark.parametrize(
    "other",
    [
        record(ran=0.2),  # the program that writes test.xml
        record(label="//a:u"),
        record(shard=2),
        record(worker="cpu-2"),
    ],
)
def test_record_of_something_else_is_left_out(other):
    assert merge([ATTEMPT], [other]) == [ATTEMPT]


def test_among_several_the_nearest_is_taken_and_each_once():
    later = dataclasses.replace(ATTEMPT, attempt=2, phases=(Phase("ran", 20.0, 2.0),))
    merged = merge([ATTEMPT, later], [record(start=21.0), record(start=12.0)])
    assert [phase.start for each in merged for phase in each.phases if phase.name == "ran"] == [12.0, 21.0]


def test_record_belongs_to_one_attempt():
    later = dataclasses.replace(ATTEMPT, attempt=2)
    first, second = merge([ATTEMPT, later], [record()])
    assert first != ATTEMPT
    assert second == later


def test_cached_attempt_takes_no_record():
    cached = dataclasses.replace(ATTEMPT, place="remote cache", phases=())
    assert merge([cached], [record()]) == [cached]
