"""The status of a real cluster: what runs, what waits, what was killed, what fell silent."""

import json
import os
import signal
import urllib.request

import pytest

from tools.remote import trial, web
from tools.remote.status import DEGRADED, DOWN, HEALTHY

SILENCE_SECONDS = 12
SLOW = "sleep 4\n" + trial.REPORT
GPU = {"test.Pool": "gpu"}


@pytest.fixture(scope="module")
def cluster():
    with trial.running("status", [("cpu", ()), ("gpu", (0,))], silence_seconds=SILENCE_SECONDS) as made:
        yield made


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    made = trial.Workspace(tmp_path_factory.mktemp("workspace"), {"a_test": (SLOW, GPU), "b_test": (SLOW, GPU)})
    yield made
    made.close()


def wait_for(cluster, condition, seconds):
    """The first status for which the condition holds."""

    def found():
        status = trial.status(cluster)
        return status if condition(status) else None

    return trial.wait_for(found, seconds)


def worker(status, name):
    return next(each for each in status.workers if each.name == name)


def gpu(status):
    return next(each for each in status.pools if each.name == "gpu")


def test_what_runs_and_what_waits(cluster, workspace):
    process = workspace.start(cluster.settings())
    try:
        status = wait_for(cluster, lambda status: gpu(status).busy and gpu(status).queued, 60)
        busy = worker(status, "gpu-1")
        assert (busy.state, busy.running.mnemonic) == ("busy", "TestRunner")
        assert busy.running.label in ("//:a_test", "//:b_test")
        assert 0 <= status.at - busy.running.since < 6
        assert 0 <= gpu(status).oldest_wait < 10
        _, said = process.communicate()
        assert process.returncode == 0, said
    finally:
        process.kill()
    status = trial.status(cluster)
    done = worker(status, "gpu-1")
    assert (done.state, done.tests) == ("idle", 2)
    assert 8 <= done.busy_seconds < 30 and 8 / 600 <= done.utilisation < 30 / 600
    assert sum(each.count for each in status.outcomes if (each.pool, each.outcome) == ("gpu", "completed")) == 2
    assert status.blob_bytes


def test_page_that_up_starts(cluster):
    base = f"http://{web.HOST}:{cluster.settings().web_port}"
    with urllib.request.urlopen(f"{base}/status.json", timeout=20) as answer:
        assert json.load(answer)["workers"][1]["name"] == "gpu-1"
    with urllib.request.urlopen(f"{base}/metrics", timeout=20) as answer:
        assert 'trainyard_worker_tests_total{worker="gpu-1",pool="gpu"} 2\n' in answer.read().decode()


def test_kill_is_seen(cluster):
    os.kill(trial.pid_of(cluster, "casd"), signal.SIGKILL)
    status = wait_for(cluster, lambda status: any(each.restarts.count for each in status.processes), 20)
    (casd,) = (each for each in status.processes if each.name == "casd")
    assert casd.restarts.count == 1 and "SIGKILL" in casd.restarts.why
    assert status.health != HEALTHY


def test_worker_that_says_nothing(cluster):
    pid = trial.pid_of(cluster, "worker-gpu-1")
    os.kill(pid, signal.SIGSTOP)
    try:
        status = wait_for(cluster, lambda status: worker(status, "gpu-1").state == "dead", 2 * SILENCE_SECONDS + 6)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert status.health == DEGRADED
    assert "pool gpu: no live worker: tests for it fail after 300 s" in status.warnings
    wait_for(cluster, lambda status: worker(status, "gpu-1").state == "idle", 30)


def test_cluster_that_is_down(cluster):
    cluster.down()
    status = trial.status(cluster)
    assert status.health == DOWN
    assert status.warnings == ("the cluster is down: bring it up (`up`)",)
