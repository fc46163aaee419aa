"""A hundred tests while a random part of the cluster is killed every few seconds: all results right, none lost."""

import os
import random
import signal
import threading

from tools.remote import trial
from tools.remote.status import ALIVE, DOWN

COUNT = 100
EVERY_SECONDS = 4
WORKERS = 3
# Every fourth fails: a result that is made up would be found.
SCRIPT = 'sleep 0.3; echo "answer=$(( {n} * {n} ))"\n' + trial.REPORT + "exit $(( {n} % 4 == 3 ))\n"


def test_all_results_are_right(tmp_path):
    (tmp_path / "workspace").mkdir()
    tests = {f"n{n}_test": (SCRIPT.replace("{n}", str(n)), {"test.Pool": "cpu"}) for n in range(COUNT)}
    workspace = trial.Workspace(tmp_path / "workspace", tests)
    dice = random.Random(7)
    over = threading.Event()
    killed = []
    with trial.running("chaos", [("cpu", ())] * WORKERS) as cluster:
        names = ["scheduler", "casd", "postgres", *(f"worker-cpu-{number + 1}" for number in range(WORKERS))]

        def kill():
            order = []
            while not over.wait(EVERY_SECONDS):
                # (on a busy machine a cluster takes longer to recover: never up, it would answer nobody)
                if not _serves(cluster):
                    continue
                # (each once a round: a scheduler that is killed whenever it is up answers nobody)
                order = order or dice.sample(names, len(names))
                name = order.pop()
                pid = trial.pid_of(cluster, name)
                if pid:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(name)

        thread = threading.Thread(target=kill)
        thread.start()
        try:
            outcome = workspace.test(cluster.settings(), "--jobs=16", "--flaky_test_attempts=1")
        finally:
            over.set()
            thread.join()
            workspace.close()
        assert outcome.status == 3, f"{outcome.said}\nkilled: {killed}"  # (built, and some tests failed)
        assert len(killed) >= 5, killed
        assert {name: each["status"] for name, each in outcome.tests.items()} == {
            f"n{n}_test": "FAILED" if n % 4 == 3 else "PASSED" for n in range(COUNT)
        }
        wrong = [n for n in range(COUNT) if f"answer={n * n}\n" not in outcome.log(f"n{n}_test")]
        assert wrong == []
        assert all(each["pid"] for each in trial.wait_for(lambda: _all_run(cluster), 20))


def _serves(cluster):
    found = trial.status(cluster)
    return found.health != DOWN and all(each.state in ALIVE for each in found.workers)


def _all_run(cluster):
    found = cluster.processes()
    return found if all(each["statename"] == "RUNNING" for each in found) else []
