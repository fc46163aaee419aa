"""TLS and tokens of a real cluster: who may do what."""

import shutil
import subprocess
import time

import pytest

from tools.remote import credentials, trial
from tools.remote.engine import load

TESTS = {"cpu_test": ('echo "worker=$TRAINYARD_WORKER"\n', {"test.Pool": "cpu"})}


@pytest.fixture(scope="module")
def cluster():
    made, wanted = trial.cluster("tls")
    try:
        made.up(wanted.model_copy(update={"secure": True}).with_worker("cpu"))
        yield made
    finally:
        made.down()
        shutil.rmtree(made.places.home)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    made = trial.Workspace(tmp_path_factory.mktemp("workspace"), TESTS)
    yield made
    made.close()


def options(cluster, role, *, token=None):
    tls = cluster.places.tls
    found = [f"--tls_certificate={tls}/ca.pem", f"--tls_client_certificate={tls}/{role}.pem"]
    found += [f"--tls_client_key={tls}/{role}.key", "--remote_retries=0"]
    return [*found, f"--remote_header=authorization=Bearer {token or (tls / f'{role}.token').read_text()}"]


def test_a_client_executes(cluster, workspace):
    outcome = workspace.test(cluster.settings(), *options(cluster, credentials.CLIENT))
    assert outcome.status == 0, outcome.said
    assert "worker=cpu-1" in outcome.log("cpu_test")


def test_a_worker_does_not_execute(cluster, workspace):
    outcome = workspace.test(cluster.settings(), *options(cluster, credentials.WORKER), "--nocache_test_results")
    assert outcome.status != 0
    assert outcome.tests == {} or outcome.tests["cpu_test"]["status"] != "PASSED"
    assert "PERMISSION_DENIED" in outcome.said or "not authorized" in outcome.said.lower()


def test_a_token_of_another_cluster_is_refused(cluster, workspace):
    foreign = credentials.token("0" * 64, credentials.CLIENT)
    outcome = workspace.test(cluster.settings(), *options(cluster, credentials.CLIENT, token=foreign))
    assert outcome.status != 0
    assert outcome.tests == {}


def test_nobody_asks_without_a_certificate(cluster, workspace):
    tls = cluster.places.tls
    token = (tls / "client.token").read_text()
    outcome = workspace.test(
        cluster.settings(),
        f"--tls_certificate={tls}/ca.pem",
        f"--remote_header=authorization=Bearer {token}",
        "--remote_retries=0",
    )
    assert outcome.status != 0
    assert outcome.tests == {}


def test_a_client_does_not_register_as_a_worker(cluster, tmp_path):
    engine = load(trial._engine_file())
    tls = cluster.places.tls
    command = [
        str(engine.buildbox / "buildbox-worker"),
        f"--bots-remote={cluster.settings().url.replace('grpc', 'http')}",
        f"--bots-server-cert={tls}/ca.pem",
        f"--bots-client-cert={tls}/client.pem",
        f"--bots-client-key={tls}/client.key",
        f"--bots-access-token={tls}/client.token",
        f"--cas-remote=unix:{cluster.places.casd_socket}",
        "--platform=Pool=cpu",
        f"--buildbox-run={cluster.places.run}/run_action.sh",
        "--bots-retry-limit=1",
        "intruder",
    ]
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline and process.poll() is None:
                log.seek(0)
                if "PERMISSION" in log.read():
                    break
                time.sleep(0.2)
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        said = log.read()
    assert "intruder" not in cluster.log("scheduler").read_text() or "not authorized" in said.lower()
    assert "[7:" in said or "PERMISSION_DENIED" in said or "not authorized" in said.lower(), said
