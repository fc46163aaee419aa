"""Parts of a real cluster are killed while tests run: results are right, none is lost, no process is left behind."""

import os
import signal
from pathlib import Path

import pytest

from tools.remote import trial

# It says that it began by a file that the whole machine sees; the mark stands in a command line, too.
SLOW = 'touch "/dev/shm/$MARK"; sh -c "sleep 4; : $MARK"; echo over\n' + trial.REPORT


@pytest.fixture(scope="module")
def cluster():
    with trial.running("a repair", [("cpu", ()), ("cpu", ())]) as made:
        yield made


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    made = trial.Workspace(tmp_path_factory.mktemp("workspace"), {"slow_test": (SLOW, {"test.Pool": "cpu"})})
    yield made
    made.close()


@pytest.fixture
def mark():
    with trial.mark() as file:
        yield file.name


def start(workspace, cluster, mark):
    """A run of the slow test, once the test has begun."""
    process = workspace.start(cluster.settings(), f"--test_env=MARK={mark}")
    trial.wait_for(lambda: trial.processes_with(f": {mark}"), 60)
    return process


def finish(workspace, process):
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "over" in (workspace.root / "bazel-testlogs/slow_test/test.log").read_text()


def worker_above(pid):
    """The buildbox-worker that started a process."""
    while Path(f"/proc/{pid}/exe").resolve().name != "buildbox-worker":
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        pid = next(int(line.split()[1]) for line in lines if line.startswith("PPid:"))
        assert pid > 1
    return pid


def test_worker(cluster, workspace, mark):
    process = start(workspace, cluster, mark)
    first = trial.processes_with(f": {mark}")
    os.kill(worker_above(first[0]), signal.SIGKILL)
    trial.wait_for(lambda: not set(first) & set(trial.processes_with(f": {mark}")), 3)  # (no orphan)
    finish(workspace, process)
    assert trial.processes_with(f": {mark}") == []


@pytest.mark.parametrize("name", ["scheduler", "casd", "postgres"])
def test_part(cluster, workspace, mark, name):
    process = start(workspace, cluster, mark)
    before = trial.pid_of(cluster, name)
    os.kill(before, signal.SIGKILL)
    finish(workspace, process)
    assert trial.pid_of(cluster, name) not in (0, before)


def test_supervisor(cluster, workspace, mark):
    process = start(workspace, cluster, mark)
    pid = int((cluster.places.run / "supervisor.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    trial.wait_for(lambda: not Path(f"/proc/{pid}").exists(), 5)
    assert cluster.processes() == []
    said = []
    cluster._say = said.append
    cluster.up(cluster.settings())
    assert "repaired: the supervisor was gone; ended" in said[0]
    finish(workspace, process)
