"""A real cluster: what is sent where, what is refused, how it is changed."""

import time
from pathlib import Path

import pytest

from tools.remote import trial
from tools.remote.cluster import ClusterError

WHERE = 'echo "worker=$TRAINYARD_WORKER devices=[$CUDA_VISIBLE_DEVICES$NEURON_RT_VISIBLE_CORES]"\n' + trial.REPORT
TESTS = {
    "cpu_test": (WHERE, {"test.Pool": "cpu"}),
    "gpu_test": (WHERE, {"test.Pool": "gpu"}),
    "multi_gpu_test": (WHERE, {"test.Pool": "multi-gpu"}),
    "trainium_test": (WHERE, {"test.Pool": "trainium"}),
    "default_test": (WHERE, {}),
    "unknown_test": (WHERE, {"test.Pool": "tpu"}),
}
WORKERS = [("cpu", ()), ("gpu", (0,)), ("multi-gpu", (1, 2)), ("trainium", (0, 1))]


@pytest.fixture(scope="module")
def cluster():
    with trial.running("cluster", WORKERS) as made:
        yield made


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    made = trial.Workspace(tmp_path_factory.mktemp("workspace"), TESTS)
    yield made
    made.close()


def test_each_test_runs_in_its_pool(cluster, workspace):
    targets = [f"//:{name}" for name in TESTS if name != "unknown_test"]
    outcome = workspace.test(cluster.settings(), targets=targets)
    assert outcome.status == 0, outcome.said
    said = {name.removesuffix("_test"): outcome.log(name) for name in outcome.tests}
    assert "worker=gpu-1 devices=[0]" in said["gpu"]
    assert "worker=multi-gpu-1 devices=[1,2]" in said["multi_gpu"]
    assert "worker=trainium-1 devices=[0,1]" in said["trainium"]
    for pool in ("cpu", "default"):
        assert "worker=cpu-1 devices=[]" in said[pool]


def test_results_are_kept(cluster, workspace):
    workspace.test(cluster.settings(), targets=["//:gpu_test"])
    workspace.forget()
    outcome = workspace.test(cluster.settings(), targets=["//:gpu_test"])
    assert outcome.tests["gpu_test"]["executionInfo"]["cachedRemotely"] is True
    assert "worker=gpu-1" in outcome.log("gpu_test")
    outcome = workspace.test(cluster.settings(), "--test_env=ROUND=2", targets=["//:gpu_test"])
    assert "cachedRemotely" not in outcome.tests["gpu_test"]["executionInfo"]


def test_unknown_pool_fails_at_once_and_names_those_there_are(cluster, workspace):
    begin = time.monotonic()
    outcome = workspace.test(cluster.settings(), targets=["//:unknown_test"])
    assert time.monotonic() - begin < 20
    assert outcome.status != 0
    assert "//:unknown_test" in outcome.said
    assert "Pool=tpu" in outcome.said
    assert "cpu, gpu, multi-gpu, trainium" in outcome.said


def test_worker_is_added_and_drained(cluster, workspace):
    added = cluster.add_worker("gpu", (3,))
    assert added.name == "gpu-2"
    assert trial.pid_of(cluster, "worker-gpu-2")
    cluster.drain("gpu-1")
    assert "worker-gpu-1" not in {each["name"] for each in cluster.processes()}
    outcome = workspace.test(cluster.settings(), "--test_env=ROUND=3", targets=["//:gpu_test"])
    assert "worker=gpu-2 devices=[3]" in outcome.log("gpu_test")
    with pytest.raises(ValueError, match="no worker 'gpu-1'"):
        cluster.drain("gpu-1")


def test_down_leaves_no_process(cluster):
    marked = f"TRAINYARD_CLUSTER={cluster.places.home}".encode()

    def left():
        found = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            try:
                if marked in environ.read_bytes():
                    found.append(environ)
            except OSError:
                continue
        return found

    assert len(left()) > len(WORKERS)
    cluster.down()
    assert left() == []
    with pytest.raises(ClusterError, match="is down: bring it up first"):
        cluster.drain("cpu-1")
