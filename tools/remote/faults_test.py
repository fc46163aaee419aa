"""A real cluster that is disturbed while tests run: results are right, none is lost, nothing is left behind."""

import os
import shutil
import signal
import time
import uuid
from pathlib import Path

import pytest

from tools.remote import trial

# Says that it began by a file that all processes of the machine see; its name is found again in the command line.
SLOW = 'touch "/dev/shm/$MARK"; sh -c "sleep 6; : $MARK"; echo over\n'
ENDLESS = 'touch "/dev/shm/$MARK"; sh -c "sleep 600; : $MARK"\n'
TESTS = {
    "slow_test": (SLOW, {"test.Pool": "cpu"}),
    "endless_test": (ENDLESS, {"test.Pool": "cpu"}),
    "nowhere_test": ("true\n", {"test.Pool": "trainium"}),
}
QUEUE_SECONDS = 6


@pytest.fixture(scope="module")
def cluster():
    made, wanted = trial.cluster("faults")
    try:
        made.up(wanted.model_copy(update={"queue_seconds": QUEUE_SECONDS}).with_worker("cpu").with_worker("cpu"))
        yield made
    finally:
        made.down()
        shutil.rmtree(made.places.home)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    made = trial.Workspace(tmp_path_factory.mktemp("workspace"), TESTS)
    yield made
    made.close()


@pytest.fixture
def mark():
    name = f"ty-{uuid.uuid4().hex}"
    yield name
    (Path("/dev/shm") / name).unlink(missing_ok=True)


def wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.1)


def began(mark):
    return (Path("/dev/shm") / mark).exists()


def processes_of(mark):
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if (
                f"sleep 6; : {mark}".encode() in line.read_bytes()
                or f"sleep 600; : {mark}".encode() in line.read_bytes()
            ):
                found.append(int(line.parent.name))
        except OSError:
            continue
    return found


def ancestor(pid, name):
    """The process above `pid` that runs a program of this name."""
    while pid > 1:
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
        )
        if Path(f"/proc/{pid}/exe").resolve().name == name:
            return pid
        pid = int(status["PPid"])
    raise AssertionError(f"no {name} above")


def test_worker_that_is_killed(cluster, workspace, mark):
    process = workspace.start(cluster.settings(), f"--test_env=MARK={mark}", targets=["//:slow_test"])
    wait_for(lambda: processes_of(mark), 60)
    first = processes_of(mark)
    os.kill(ancestor(first[0], "buildbox-worker"), signal.SIGKILL)
    wait_for(lambda: not set(first) & set(processes_of(mark)), 5)  # no orphan
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "over" in (workspace.root / "bazel-testlogs/slow_test/test.log").read_text()
    assert processes_of(mark) == []


@pytest.mark.parametrize("name", ["scheduler", "casd", "postgres"])
def test_part_that_is_killed_while_a_test_runs(cluster, workspace, mark, name):
    process = workspace.start(cluster.settings(), f"--test_env=MARK={mark}", targets=["//:slow_test"])
    wait_for(lambda: began(mark), 60)
    pid = next(each["pid"] for each in cluster.processes() if each["name"] == name)
    os.kill(pid, signal.SIGKILL)
    _, said = process.communicate(timeout=150)
    assert process.returncode == 0, said
    assert "over" in (workspace.root / "bazel-testlogs/slow_test/test.log").read_text()


def test_test_that_outlives_its_timeout(cluster, workspace, mark):
    outcome = workspace.test(
        cluster.settings(), f"--test_env=MARK={mark}", "--test_timeout=3", targets=["//:endless_test"]
    )
    assert outcome.tests["endless_test"]["status"] == "TIMEOUT"
    wait_for(lambda: not processes_of(mark), 10)


def test_client_that_disappears(cluster, workspace, mark):
    process = workspace.start(cluster.settings(), f"--test_env=MARK={mark}", targets=["//:endless_test"])
    wait_for(lambda: processes_of(mark), 60)
    server = int((workspace.root.with_name(workspace.root.name + ".output") / "server/server.pid.txt").read_text())
    for pid in (process.pid, server):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not processes_of(mark), 30)


def test_pool_without_a_worker_fails_after_a_stated_time(cluster, workspace):
    begin = time.monotonic()
    outcome = workspace.test(cluster.settings(), "--remote_retries=0", targets=["//:nowhere_test"])
    taken = time.monotonic() - begin
    assert outcome.status != 0
    assert outcome.tests.get("nowhere_test", {}).get("status") != "PASSED"
    assert QUEUE_SECONDS - 1 <= taken < 60
