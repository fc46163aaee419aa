"""What ends a test on a real cluster: its own time, a client that is gone, a pool without workers."""

import os
import signal
import time
from pathlib import Path

import pytest

from tools.remote import trial

QUEUE_SECONDS = 5
ABANDON_SECONDS = 8  # (Bazel's delay between attempts grows to 5 s)
ENDLESS = 'sh -c "sleep 600; : $MARK"\n'
# (a scheduler that is started again gives clients this time anew)
LONG = f'echo begins >> "/dev/shm/$MARK"; sh -c "sleep {3 * ABANDON_SECONDS}; : $MARK"\n{trial.REPORT}'
SLOW = f"sleep {QUEUE_SECONDS + 3}\n{trial.REPORT}"
TESTS = {
    "endless_test": (ENDLESS, {"test.Pool": "cpu"}),
    "quick_test": (trial.REPORT, {"test.Pool": "cpu"}),
    "nowhere_test": (trial.REPORT, {"test.Pool": "trainium"}),
    "long_test": (LONG, {"test.Pool": "cpu"}),
    "first_test": (SLOW, {"test.Pool": "cpu"}),
    "second_test": (SLOW, {"test.Pool": "cpu"}),
}


@pytest.fixture(scope="module")
def cluster():
    # (a worker is taken for dead, and its test repeated, if a scheduler on a busy machine is not back before that)
    times = {"queue_seconds": QUEUE_SECONDS, "abandon_seconds": ABANDON_SECONDS, "silence_seconds": 48}
    with trial.running("limits", [("cpu", ())], **times) as made:
        yield made


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    made = trial.Workspace(tmp_path_factory.mktemp("workspace"), TESTS)
    yield made
    made.close()


@pytest.fixture
def mark():
    with trial.mark() as file:
        yield file.name


def test_its_own_time(cluster, workspace, mark):
    options = [f"--test_env=MARK={mark}", "--test_timeout=3"]
    outcome = workspace.test(cluster.settings(), *options, targets=["//:endless_test"])
    assert outcome.tests["endless_test"]["status"] == "TIMEOUT"
    trial.wait_for(lambda: not trial.processes_with(f": {mark}"), 5)


@pytest.mark.parametrize("scheduler", ["lives", "is started again"])
def test_client_that_disappears(cluster, workspace, mark, scheduler):
    process = workspace.start(cluster.settings(), f"--test_env=MARK={mark}", targets=["//:endless_test"])
    trial.wait_for(lambda: trial.processes_with(f": {mark}"), 60)
    for pid in trial.processes_with(str(workspace.output)):  # (Bazel's client and server)
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    if scheduler == "is started again":
        os.kill(trial.pid_of(cluster, "scheduler"), signal.SIGKILL)
    time.sleep(ABANDON_SECONDS / 2)
    assert trial.processes_with(f": {mark}")  # (it might come back)
    trial.wait_for(lambda: not trial.processes_with(f": {mark}"), ABANDON_SECONDS + 40)
    # The worker is there for others.
    outcome = workspace.test(cluster.settings(), f"--test_env=MARK={mark}", targets=["//:quick_test"])
    assert outcome.status == 0, outcome.said


def test_client_that_waits_is_not_taken_for_gone(cluster, workspace, mark):
    process = workspace.start(cluster.settings(), f"--test_env=MARK={mark}", targets=["//:long_test"])
    trial.wait_for(lambda: trial.processes_with(f": {mark}"), 60)
    os.kill(trial.pid_of(cluster, "scheduler"), signal.SIGKILL)
    _, said = process.communicate(timeout=90)
    begins = (Path("/dev/shm") / mark).read_text().count("begins")
    assert process.returncode == 0, said
    assert begins == 1


def test_pool_without_a_worker(cluster, workspace):
    begin = time.monotonic()
    outcome = workspace.test(cluster.settings(), "--test_env=ROUND=1", targets=["//:nowhere_test"])
    taken = time.monotonic() - begin
    assert outcome.status != 0
    assert f"pool trainium has had no worker that can run it for {QUEUE_SECONDS} s" in outcome.said
    assert "//:nowhere_test" in outcome.said
    assert QUEUE_SECONDS - 1 <= taken < 40


def test_busy_pool_is_waited_for(cluster, workspace):
    outcome = workspace.test(cluster.settings(), targets=["//:first_test", "//:second_test"])
    assert outcome.status == 0, outcome.said


def test_what_waits_is_not_in_the_way_of_a_new_worker(cluster, workspace):
    process = workspace.start(cluster.settings(), targets=["//:nowhere_test"])
    cluster.add_worker("trainium", (0,))
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert Path(workspace.root / "bazel-testlogs/nowhere_test/test.log").exists()
