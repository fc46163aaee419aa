"""Signals stop a training that goes on later as if nothing had been: one after the other, in the same run."""

import os
import signal

import pytest

from trainers.sft.forked_runs import last_state, num_metrics, results, start, statuses, wait_until
from trainers.sft.sft_cases import config_of, write_case
from trainers.sft.signals import SIGNALS, STOPPED, caught


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_every_signal_is_a_pause(tmp_path, num_ranks):
    """The training that is stopped has no end of its own, so that no signal can come too late."""
    write_case(tmp_path)
    endless = config_of(tmp_path, infinite=True, schedule="constant")
    for number, name in enumerate(("TERM", "INT", "USR1", "USR2", "HUP", "XCPU")):
        before, seen = last_state(endless), num_metrics(endless)
        ranks = start(endless, num_ranks)
        wait_until(lambda seen=seen: num_metrics(endless) > seen + 1, ranks)
        os.kill(ranks[number % num_ranks].pid, signal.Signals[f"SIG{name}"])
        assert statuses(ranks) == [STOPPED] * num_ranks, name
        assert last_state(endless) > before
        assert num_metrics(endless) == last_state(endless)
    steps = last_state(endless) + 2
    resumed = config_of(tmp_path, steps=steps, schedule="constant")
    whole = config_of(tmp_path, steps=steps, schedule="constant", output=tmp_path / "whole")
    assert statuses(start(resumed, num_ranks)) == [0] * num_ranks
    assert statuses(start(whole, num_ranks)) == [0] * num_ranks
    assert results(resumed) == results(whole)


def test_the_second_time_it_ends_the_process():
    with caught() as request:
        os.kill(os.getpid(), signal.SIGINT)
        assert request.name == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_as_before():
    before = [signal.getsignal(number) for number in SIGNALS]
    with caught():
        assert before != [signal.getsignal(number) for number in SIGNALS]
    assert before == [signal.getsignal(number) for number in SIGNALS]


def test_what_is_ignored_stays_ignored():
    """As by nohup, for which a training outlives its terminal."""
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with caught() as request:
            os.kill(os.getpid(), signal.SIGHUP)
            assert request.name is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)
