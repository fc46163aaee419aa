"""A worker that joins from another host, with TLS: what it runs, what is seen of it, who is refused."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tools.remote import credentials, trial
from tools.remote.fleet import hosts
from tools.remote.fleet.part import Part

WHERE = 'echo "worker=$TRAINYARD_WORKER devices=[$CUDA_VISIBLE_DEVICES]"\n'
# Says how often it began, by a file that all processes of the machine see, and is there long enough to be disturbed.
SLOW = 'echo began >> "/dev/shm/$MARK"; sleep 3\n' + WHERE
TESTS = {"gpu_test": (WHERE, {"test.Pool": "gpu"}), "slow_test": (SLOW, {"test.Pool": "gpu"})}


@pytest.fixture(scope="module")
def both():
    with hosts.pair() as pair:
        yield pair


@pytest.fixture(scope="module")
def url(both):
    return f"grpcs://{both[0].address}:{trial.free_port()}"


@pytest.fixture(scope="module")
def near(both, url):
    """The part with the scheduler, and no worker for GPUs."""
    part = Part(both[0])
    try:
        host, _, port = url.removeprefix("grpcs://").partition(":")
        result = part.run("up", "--secure", f"--host={host}", f"--port={port}", "--pool=cpu=1")
        assert result.returncode == 0, result.stderr
        yield part
    finally:
        part.remove()


@pytest.fixture(scope="module")
def far(both, near):
    del near  # (it ends after this one)
    part = Part(both[1])
    yield part
    part.remove()


@pytest.fixture(scope="module")
def shown(near, tmp_path_factory):
    """What is copied to the other host."""
    folder = tmp_path_factory.mktemp("shown")
    for name in credentials.files(credentials.WORKER):
        shutil.copy(near.home / "tls" / name, folder)
    return folder


@pytest.fixture(scope="module")
def joined(far, url, shown):
    result = far.run("join", f"--scheduler={url}", f"--credentials={shown}", "--pool=gpu", "--devices=3")
    assert result.returncode == 0, result.stderr
    return far


@pytest.fixture(scope="module")
def tunnel(near, url):
    command = [*near.command, "tunnel", f"--scheduler={url}", "--port=50061"]
    with subprocess.Popen([*command, f"--credentials={near.home}/tls"], stderr=subprocess.PIPE, text=True) as process:
        assert "leads to" in process.stderr.readline()
        token = (near.home / "tls/client.token").read_text()
        yield ["--remote_executor=grpc://127.0.0.1:50061", f"--remote_header=authorization=Bearer {token}"]
        process.terminate()


@pytest.fixture(scope="module")
def workspace(near, tmp_path_factory):
    made = trial.Workspace(tmp_path_factory.mktemp("workspace"), TESTS, within=near.host.within)
    yield made
    made.close()


@pytest.fixture
def mark():
    with trial.mark() as file:
        yield file


def test_credentials_that_are_not_taken_are_refused_at_once(far, url, shown, tmp_path):
    folder = tmp_path / "tls"
    credentials.make(folder, [])
    join = ("join", f"--scheduler={url}", f"--credentials={folder}", "--pool=gpu")
    result = far.run(*join)
    assert result.returncode == 2
    assert "shows a certificate that is not of" in result.stderr
    shutil.copy(shown / "ca.pem", folder)
    result = far.run(*join)
    assert result.returncode == 2
    assert f"takes no connection with {folder}/worker.pem" in result.stderr
    assert not (far.home / "cluster.json").exists()


def test_a_joined_worker_runs_tests(near, joined, workspace, tunnel):
    name = f"gpu-1@{joined.host.name}"
    outcome = workspace.test(trial.Settings(), *tunnel, targets=["//:gpu_test"])
    assert outcome.status == 0, outcome.said
    assert f"worker={name} devices=[3]" in outcome.log("gpu_test")
    assert near.state(name) == "idle"


def test_a_joined_worker_that_is_killed_runs_its_test_again(joined, workspace, tunnel, mark):
    process = workspace.start(trial.Settings(), *tunnel, f"--test_env=MARK={mark.name}", targets=["//:slow_test"])
    try:
        trial.wait_for(mark.exists, 60)
        named = trial.processes_with(f"gpu-1@{joined.host.name}")
        (worker,) = (pid for pid in named if Path(f"/proc/{pid}/exe").resolve().name == "buildbox-worker")
        os.kill(worker, signal.SIGKILL)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        assert mark.read_text() == "began\n" * 2
        (restarts,) = (each["restarts"] for each in joined.status()["processes"] if each["name"] == "worker-gpu-1")
        assert restarts["count"] == 1
    finally:
        process.terminate()
        process.communicate()
