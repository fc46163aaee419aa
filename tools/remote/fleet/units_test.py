"""The units, run by a systemd: what `systemctl` starts, starts again and ends."""

import os
import shutil
import subprocess
import uuid
from pathlib import Path

import pytest

from tools.remote import trial
from tools.remote.fleet import systemd

PROGRAM = "/usr/lib/systemd/systemd"
# A user's systemd wants to find that the machine was started by one, and a group of processes that it may divide.
START = f"""\
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system && mount -t cgroup2 cgroup2 /sys/fs/cgroup &&
mkdir "$GROUP" && (echo 0 > "$GROUP/cgroup.procs" && exec unshare --cgroup {PROGRAM} --user --unit=basic.target)
find "$GROUP" -depth -type d -exec rmdir {{}} +
"""
SKIPPED = "no systemd runs on this machine"
TESTS = {"gpu_test": ('echo "worker=$TRAINYARD_WORKER devices=[$CUDA_VISIBLE_DEVICES]"\n', {"test.Pool": "gpu"})}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("systemd")


@pytest.fixture(scope="module")
def systemctl(folder):
    """Asks a systemd that is there for this test alone."""
    environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(folder), "XDG_RUNTIME_DIR": str(folder / "run")}
    environ |= {"SYSTEMD_UNIT_PATH": f"{folder}/units:/usr/lib/systemd/user", "SYSTEMD_LOG_TARGET": "console"}
    environ["GROUP"] = f"/sys/fs/cgroup/ty-{uuid.uuid4().hex}"
    (folder / "run").mkdir(mode=0o700)

    def ask(*words, check=True):
        result = subprocess.run(
            ["systemctl", "--user", *words], env=environ, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0 or not check, result.stderr
        return result.stdout.strip()

    if not Path(PROGRAM).exists():
        pytest.skip(SKIPPED)
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    with (folder / "log").open("w") as log:
        command = ["unshare", *user, "--mount", "--cgroup", "sh", "-c", START]
        process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
        trial.wait_for(
            lambda: process.poll() is not None or ask("is-active", "basic.target", check=False) == "active", 20
        )
        if process.poll() is not None:
            print((folder / "log").read_text())
            pytest.skip(SKIPPED)
        yield ask
        ask("exit")
        process.wait(10)


@pytest.fixture(scope="module")
def cluster(folder, systemctl):
    made, wanted = trial.cluster("units")
    try:
        made.places.make()
        wanted = wanted.with_worker("gpu", (2,))
        systemd.install(folder / "units", made.places, made.write(wanted), "", trial.engine().buildbox)
        systemctl("daemon-reload")
        systemctl("start", systemd.TARGET)
        yield made
    finally:
        systemctl("stop", systemd.TARGET)
        shutil.rmtree(made.places.home)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    made = trial.Workspace(tmp_path_factory.mktemp("workspace"), TESTS)
    yield made
    made.close()


def runs_a_test(cluster, workspace, number):
    outcome = workspace.test(cluster.settings(), f"--test_env=ROUND={number}")
    assert outcome.status == 0, outcome.said
    assert "worker=gpu-1 devices=[2]" in outcome.log("gpu_test")


def processes_of(cluster):
    return trial.processes_with(f"{cluster.places.home}/")


def test_a_target_is_a_cluster(systemctl, cluster, workspace):
    runs_a_test(cluster, workspace, 1)
    systemctl("kill", "--kill-whom=main", "--signal=KILL", "trainyard-worker@gpu-1")
    trial.wait_for(lambda: systemctl("show", "-P", "NRestarts", "trainyard-worker@gpu-1") == "1", 20)
    runs_a_test(cluster, workspace, 2)
    assert processes_of(cluster)
    systemctl("stop", systemd.TARGET)
    trial.wait_for(lambda: not processes_of(cluster), 20)
    assert systemctl("list-units", "--plain", "--no-legend", "trainyard*") == ""
