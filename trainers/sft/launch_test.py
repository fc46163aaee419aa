"""Ranks that are started: their places, their statuses, signals, deaths."""

import multiprocessing
import os
import signal
import time
from multiprocessing.process import BaseProcess

import pytest

from testing.distributed.processes import has_ended
from trainers.sft import launch as launch_module
from trainers.sft.launch import launch
from trainers.sft.launch_cases import heeds, kill_rank_1, statuses, wait_for_signal, write_environment


def wait_until(condition):
    while not condition():
        time.sleep(0.01)


def in_a_process(*arguments):
    """Launch from a process of its own group, as a shell starts one in a terminal."""

    def run():
        os.setpgrp()
        os._exit(launch(*arguments))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


@pytest.mark.parametrize("of_ranks, expected", [((0, 0), 0), ((75, 75), 75), ((0, 1), 1), ((1, 75), 75)])
def test_largest_status(of_ranks, expected):
    assert launch(2, statuses, *of_ranks) == expected


def test_places(tmp_path):
    assert launch(3, write_environment, tmp_path) == 0
    told = [(tmp_path / str(rank)).read_text().split() for rank in range(3)]
    assert [each[:5] for each in told] == [[f"{rank}", f"{rank}", "3", "3", "127.0.0.1"] for rank in range(3)]
    assert len({each[5] for each in told}) == 1


def test_one_rank_is_this_process(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    assert launch(1, write_environment, tmp_path) == 0
    assert os.environ["RANK"] == "0" and os.environ["WORLD_SIZE"] == "1"


def test_a_killed_rank_ends_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(launch_module, "_GRACE_SECONDS", 0.1)
    assert launch(2, kill_rank_1, tmp_path) == 128 + signal.SIGKILL
    assert has_ended(int((tmp_path / "0").read_text()))


@pytest.mark.parametrize("readings", [1, 2])
def test_a_rank_that_dies_between_two_readings(tmp_path, monkeypatch, readings):
    """However late its death is read, the others are ended; they would wait for ever."""
    monkeypatch.setattr(launch_module, "_GRACE_SECONDS", 0.1)
    exitcode, read = BaseProcess.exitcode.fget, []

    def late(process):
        read.append(process.name)
        code = exitcode(process)
        return None if read.count(process.name) <= readings else code

    monkeypatch.setattr(BaseProcess, "exitcode", property(late))
    assert launch(2, kill_rank_1, tmp_path) == 128 + signal.SIGKILL
    assert has_ended(int((tmp_path / "0").read_text()))


@pytest.mark.parametrize("terminal", [False, True])
def test_a_signal_reaches_each_rank_once(tmp_path, monkeypatch, terminal):
    """A terminal sends Ctrl-C to the whole process group of the command; ranks may take longer than others to leave."""
    monkeypatch.setattr(launch_module, "_GRACE_SECONDS", 0.1)
    process = in_a_process(2, wait_for_signal, tmp_path)
    wait_until(lambda: (tmp_path / "0").exists() and (tmp_path / "1").exists())
    (os.killpg if terminal else os.kill)(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 75
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == [repr([signal.SIGINT.value])] * 2


def test_ranks_ignore_what_their_launcher_was_started_to_ignore():
    """As HUP under nohup."""
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert launch(2, heeds, signal.SIGHUP) == 0
    finally:
        signal.signal(signal.SIGHUP, former)


def test_ranks_die_with_the_launcher(tmp_path):
    process = in_a_process(2, wait_for_signal, tmp_path)
    wait_until(lambda: (tmp_path / "0").exists() and (tmp_path / "1").exists())
    ranks = [int((tmp_path / str(rank)).read_text()) for rank in range(2)]
    process.kill()
    process.join()
    wait_until(lambda: all(map(has_ended, ranks)))
