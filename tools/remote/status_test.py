import dataclasses
import json

import pytest

from tools.remote.cluster_logs import Restarts
from tools.remote.job_store import Queue, Session
from tools.remote.status import DEGRADED, DOWN, HEALTHY, assemble, describe_restarts, duration
from tools.remote.status_example import AT, JOBS, PROCESSES, WANTED, facts, process


def worker(status, name):
    return next(each for each in status.workers if each.name == name)


def pool(status, name):
    return next(each for each in status.pools if each.name == name)


def without(name):
    return dataclasses.replace(JOBS, sessions=tuple(each for each in JOBS.sessions if each.worker != name))


def heard(name, expires, status=1):
    others = without(name)
    return dataclasses.replace(others, sessions=(*others.sessions, Session(name, "gpu", status, expires)))


def test_healthy():
    status = assemble(WANTED, facts())
    assert (status.health, status.warnings) == (HEALTHY, ())
    busy = worker(status, "cpu-1")
    assert (busy.state, busy.since, busy.running.label) == ("busy", AT - 12, "//trainers/data:packing_test")
    assert (busy.tests, busy.actions, busy.utilisation) == (7, 2, 0.1)
    assert worker(status, "gpu-1").state == "idle" and worker(status, "gpu-1").devices == (0,)
    assert (pool(status, "cpu").alive, pool(status, "cpu").busy) == (2, 1)
    assert (pool(status, "cpu").queued, pool(status, "cpu").oldest_wait) == (3, 40)
    assert pool(status, "trainium").workers == 0
    assert json.loads(json.dumps(dataclasses.asdict(status)))["workers"][0]["running"]["worker"] == "cpu-1"


def test_pool_whose_worker_fell_silent():
    status = assemble(WANTED, facts(jobs=without("gpu-1"), silent={"gpu-1": AT - 50}))
    assert (worker(status, "gpu-1").state, worker(status, "gpu-1").since) == ("dead", AT - 50)
    assert status.health == DEGRADED
    assert status.warnings == (
        "pool gpu: no live worker: tests for it fail after 900 s",
        "worker gpu-1 is dead since 50 s",
    )


def test_pool_without_any_worker_that_tests_wait_for():
    status = assemble(WANTED, facts(jobs=dataclasses.replace(JOBS, queues=(Queue("trainium", 2, AT - 7),))))
    assert status.warnings == (
        "pool trainium: no live worker: tests for it fail after 900 s (2 wait, the first for 7 s)",
    )


@pytest.mark.parametrize(
    ("jobs", "state"),
    [
        (heard("gpu-1", AT - 1), "dead"),
        (heard("gpu-1", AT + 28, status=5), "leaving"),
    ],
)
def test_workers_that_take_no_tests(jobs, state):
    status = assemble(WANTED, facts(jobs=jobs))
    assert worker(status, "gpu-1").state == state
    assert pool(status, "gpu").alive == 0
    assert status.health == DEGRADED


def test_worker_that_just_started():
    fresh = {**process("worker-gpu-1"), "start": AT - 3}
    status = assemble(
        WANTED, facts(jobs=without("gpu-1"), processes=[*PROCESSES[:-1], fresh], silent={"gpu-1": AT - 90})
    )
    assert (worker(status, "gpu-1").state, worker(status, "gpu-1").since) == ("starting", AT - 3)


def test_worker_whose_process_ended():
    # (its session lives on for some seconds)
    status = assemble(WANTED, facts(processes=[*PROCESSES[:-1], process("worker-gpu-1", "BACKOFF")]))
    assert (worker(status, "gpu-1").state, worker(status, "gpu-1").since) == ("dead", AT - 5)
    assert "worker-gpu-1 is backoff: see `logs worker-gpu-1`" in status.warnings


def test_workers_of_other_hosts():
    jobs = heard("gpu-1@far", AT + 28)
    silent = {"gpu-2@far": AT - 100, "gpu-3@far": AT - 9000, "cpu-9": AT - 100}
    status = assemble(WANTED, facts(jobs=jobs, silent=silent))
    states = {each.name: each.state for each in status.workers if each.name not in ("cpu-1", "cpu-2", "gpu-1")}
    assert states == {"gpu-1@far": "idle", "gpu-2@far": "dead"}
    assert pool(status, "gpu").alive == 2


def test_restart_is_a_warning_while_it_is_fresh():
    killed = Restarts(2, AT - 12, "terminated by SIGKILL; not expected")
    status = assemble(WANTED, facts(restarts={"casd": killed}))
    assert status.warnings == ("casd: restarted 2 times, last 12 s ago (terminated by SIGKILL)",)
    assert assemble(WANTED, facts(restarts={"casd": dataclasses.replace(killed, last=AT - 61)})).health == HEALTHY
    assert describe_restarts(Restarts(1, AT - 130, "exit status 0; expected"), AT) == (
        "restarted once, last 2 min ago (exit status 0)"
    )


def test_host_whose_workers_joined_another():
    wanted = WANTED.model_copy(update={"scheduler": "grpcs://far:50051"})
    status = assemble(wanted, facts(jobs=None, answers=False))
    assert (status.health, status.address) == (HEALTHY, "grpcs://far:50051")
    assert {each.state for each in status.workers} == {"joined"}
    ended = [*PROCESSES[:-1], process("worker-gpu-1", "EXITED")]
    assert assemble(wanted, facts(jobs=None, answers=False, processes=ended)).health == DEGRADED


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"processes": None, "jobs": None, "answers": False}, "the cluster is down"),
        ({"jobs": None}, "PostgreSQL does not answer"),
        ({"answers": False}, "the scheduler does not answer at 127.0.0.1:50051"),
    ],
)
def test_down(changes, words):
    status = assemble(WANTED, facts(**changes))
    assert status.health == DOWN
    assert status.warnings[0].startswith(words)
    assert worker(status, "cpu-1").state in ("dead", "busy")


def test_duration():
    said = [duration(seconds) for seconds in (-1, 12.4, 119, 120, 7199, 7200, 7500, 200_000)]
    assert said == ["0 s", "12 s", "119 s", "2 min", "119 min", "2 h 0 min", "2 h 5 min", "2 days"]


def test_full_disk_is_a_warning():
    assert assemble(WANTED, facts(disk_free=2_000_000_000)).health == HEALTHY
    found = assemble(WANTED, facts(disk_free=1_940_000_000))
    assert found.health == DEGRADED
    (warning,) = found.warnings
    assert warning == ("the disk of the blobs has 1.9 GB free: below 2 GB no more are taken, and tests fail; free some")
