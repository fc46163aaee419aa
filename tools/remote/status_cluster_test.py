"""The status of a real cluster: what runs, what waits, what was killed, what fell silent."""

import json
import os
import shutil
import signal
import time
import urllib.request

import pytest

from tools.remote import trial, web
from tools.remote.status import DEGRADED, DOWN, HEALTHY, read

SLOW = "sleep 6\n"
GPU = {"test.Pool": "gpu"}


@pytest.fixture(scope="module")
def cluster():
    made, wanted = trial.cluster("status")
    try:
        made.up(wanted.with_worker("cpu").with_worker("gpu", (0,)))
        yield made
    finally:
        made.down()
        shutil.rmtree(made.places.home)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    made = trial.Workspace(tmp_path_factory.mktemp("workspace"), {"a_test": (SLOW, GPU), "b_test": (SLOW, GPU)})
    yield made
    made.close()


def status_of(cluster):
    return read(cluster.places, cluster._provide().postgres / "psql")


def wait_for(cluster, condition, seconds):
    """The first status for which the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition(status := status_of(cluster)):
        assert time.monotonic() < deadline, status
        time.sleep(0.2)
    return status


def worker(status, name):
    return next(each for each in status.workers if each.name == name)


def gpu(status):
    return next(each for each in status.pools if each.name == "gpu")


def test_what_runs_and_what_waits(cluster, workspace):
    wait_for(cluster, lambda status: {each.state for each in status.workers} == {"idle"}, 30)
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
    status = status_of(cluster)
    done = worker(status, "gpu-1")
    # (Bazel has the report of a test that writes none made by a second action of the same kind)
    assert (done.state, done.tests) == ("idle", 4)
    assert 12 <= done.busy_seconds < 40 and 12 / 600 <= done.utilisation < 40 / 600
    assert sum(each.count for each in status.outcomes if (each.pool, each.outcome) == ("gpu", "completed")) >= 2
    assert status.blob_bytes


def test_page_that_up_starts(cluster):
    base = f"http://{web.HOST}:{cluster.settings().web_port}"
    with urllib.request.urlopen(f"{base}/status.json", timeout=20) as answer:
        assert json.load(answer)["workers"][1]["name"] == "gpu-1"
    with urllib.request.urlopen(f"{base}/metrics", timeout=20) as answer:
        assert 'trainyard_worker_tests_total{worker="gpu-1",pool="gpu"} 4\n' in answer.read().decode()


def test_kill_is_seen(cluster):
    (pid,) = (each["pid"] for each in cluster.processes() if each["name"] == "casd")
    os.kill(pid, signal.SIGKILL)
    status = wait_for(cluster, lambda status: any(each.restarts.count for each in status.processes), 20)
    (casd,) = (each for each in status.processes if each.name == "casd")
    assert casd.restarts.count == 1 and "SIGKILL" in casd.restarts.why
    assert status.health != HEALTHY


def test_worker_that_says_nothing(cluster):
    (pid,) = (each["pid"] for each in cluster.processes() if each["name"] == "worker-gpu-1")
    os.kill(pid, signal.SIGSTOP)
    try:
        status = wait_for(cluster, lambda status: worker(status, "gpu-1").state == "dead", 50)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert status.health == DEGRADED
    assert "pool gpu: no live worker: tests for it fail after 1800 s" in status.warnings
    wait_for(cluster, lambda status: worker(status, "gpu-1").state == "idle", 30)


def test_cluster_that_is_down(cluster):
    cluster.down()
    status = status_of(cluster)
    assert status.health == DOWN
    assert status.warnings == ("the cluster is down: bring it up (`up`)",)
