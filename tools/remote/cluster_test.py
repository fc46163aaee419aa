"""A real cluster: what is sent where, what survives, what is refused."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from tools.remote import trial
from tools.remote.cluster import ClusterError

WHERE = 'echo "worker=$TRAINYARD_WORKER devices=[$CUDA_VISIBLE_DEVICES$NEURON_RT_VISIBLE_CORES]"\n'
# Says when it began, and is there long enough to be disturbed.
SLOW = WHERE + 'echo $$ > "/dev/shm/$TEST_TARGET_TOKEN"; sleep 8; echo over\n'
TESTS = {
    "cpu_test": (WHERE, {"test.Pool": "cpu"}),
    "gpu_test": (WHERE, {"test.Pool": "gpu"}),
    "multi_gpu_test": (WHERE, {"test.Pool": "multi-gpu"}),
    "trainium_test": (WHERE, {"test.Pool": "trainium"}),
    "default_test": (WHERE, {}),
    "unknown_test": (WHERE, {"test.Pool": "tpu"}),
}


@pytest.fixture(scope="module")
def cluster():
    made, wanted = trial.cluster("cluster")
    for pool, devices in (("cpu", ()), ("cpu", ()), ("gpu", (0,)), ("multi-gpu", (1, 2)), ("trainium", (0, 1))):
        wanted = wanted.with_worker(pool, devices)
    try:
        made.up(wanted)
        yield made
    finally:
        made.down()
        shutil.rmtree(made.places.home)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    made = trial.Workspace(tmp_path_factory.mktemp("workspace"), TESTS)
    yield made
    made.close()


def pid_of(cluster, name):
    return next(each["pid"] for each in cluster.processes() if each["name"] == name)


def test_each_test_runs_in_its_pool(cluster, workspace):
    targets = [f"//:{name}" for name in TESTS if name != "unknown_test"]
    outcome = workspace.test(cluster.settings(), targets=targets)
    assert outcome.status == 0, outcome.said
    said = {name.removesuffix("_test"): outcome.log(name) for name in outcome.tests}
    assert "worker=gpu-1 devices=[0]" in said["gpu"]
    assert "worker=multi-gpu-1 devices=[1,2]" in said["multi_gpu"]
    assert "worker=trainium-1 devices=[0,1]" in said["trainium"]
    for pool in ("cpu", "default"):
        assert "worker=cpu-" in said[pool]
        assert "devices=[]" in said[pool]


def test_results_are_kept(cluster, workspace):
    workspace.test(cluster.settings(), targets=["//:gpu_test"])
    outcome = workspace.test(cluster.settings(), "--noremote_accept_cached", targets=["//:cpu_test"])
    assert not outcome.tests["cpu_test"].get("executionInfo", {}).get("cachedRemotely")
    outcome = workspace.test(cluster.settings(), "--nocache_test_results", targets=["//:gpu_test"])
    assert outcome.status == 0


def test_unknown_pool_fails_at_once_and_names_those_there_are(cluster, workspace):
    begin = time.monotonic()
    outcome = workspace.test(cluster.settings(), targets=["//:unknown_test"])
    assert time.monotonic() - begin < 20
    assert outcome.status != 0
    assert "//:unknown_test" in outcome.said
    assert "Pool=tpu" in outcome.said
    assert "cpu, gpu, multi-gpu, trainium" in outcome.said


@pytest.mark.parametrize("name", ["worker-gpu-1", "scheduler", "casd", "postgres"])
def test_what_is_killed_is_started_again(cluster, workspace, name):
    before = pid_of(cluster, name)
    os.kill(before, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while pid_of(cluster, name) in (before, 0) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert pid_of(cluster, name) not in (before, 0)
    outcome = workspace.test(cluster.settings(), f"--test_env=ROUND={name}", targets=["//:gpu_test", "//:cpu_test"])
    assert outcome.status == 0, outcome.said
    assert all(test["status"] == "PASSED" for test in outcome.tests.values())


def test_supervisor_that_is_killed_is_repaired(cluster, workspace):
    said = []
    cluster._say = said.append
    pid = int((cluster.places.run / "supervisor.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.5)
    assert cluster.processes() == []
    cluster.up(cluster.settings())
    assert said
    assert "repaired: the supervisor was gone" in said[0]
    outcome = workspace.test(cluster.settings(), "--test_env=ROUND=supervisor", targets=["//:gpu_test"])
    assert outcome.status == 0, outcome.said


def test_worker_is_added_and_drained(cluster, workspace):
    added = cluster.add_worker("gpu", (3,))
    assert added.name == "gpu-2"
    assert "worker-gpu-2" in {each["name"] for each in cluster.processes()}
    cluster.drain("gpu-2")
    assert "worker-gpu-2" not in {each["name"] for each in cluster.processes()}
    with pytest.raises(ValueError, match="no worker 'gpu-2'"):
        cluster.drain("gpu-2")


def test_down_leaves_no_process():
    made, wanted = trial.cluster("down")
    try:
        made.up(wanted.with_worker("cpu"))
        marked = f"TRAINYARD_CLUSTER={made.places.home}".encode()
        made.down()
        left = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            try:
                if marked in environ.read_bytes():
                    left.append(environ)
            except OSError:
                continue
        assert left == []
        with pytest.raises(ClusterError, match="is down: bring it up first"):
            made.drain("cpu-1")
    finally:
        made.down()
        shutil.rmtree(made.places.home)
