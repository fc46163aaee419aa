"""TLS and tokens of a real cluster: who may do what."""

import datetime
import hashlib
import signal
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from tools.remote import credentials, trial
from tools.remote.credentials import CLIENT, WORKER

TESTS = {"gpu_test": ('echo "worker=$TRAINYARD_WORKER"\n', {"test.Pool": "gpu"})}
ASK = Path(__file__).with_name("ask.py.txt")


@pytest.fixture(scope="module")
def cluster():
    with trial.running("tls", [("gpu", ())], secure=True) as made:
        yield made


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    made = trial.Workspace(tmp_path_factory.mktemp("workspace"), TESTS)
    yield made
    made.close()


@pytest.fixture(scope="module")
def tunnel(cluster):
    """Where a tunnel to the cluster takes what Bazel says without TLS."""
    port = trial.free_port()
    command = [trial.program(), "tunnel", f"--port={port}"]
    command += [f"--scheduler={cluster.settings().url}", f"--credentials={cluster.places.tls}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert f"127.0.0.1:{port} leads to {cluster.settings().url}" in process.stderr.readline()
    yield f"grpc://127.0.0.1:{port}"
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    process.stderr.close()


@pytest.fixture(scope="module")
def engine():
    return trial.engine()


def through(tunnel, token):
    return [f"--remote_executor={tunnel}", f"--remote_header=authorization=Bearer {token}", "--remote_retries=0"]


def token_of(cluster, role):
    return (cluster.places.tls / f"{role}.token").read_text()


def ask(cluster, engine, role, request, *, token=None, name="any"):
    """The status of a request, with a role's certificate, and with its token unless another is given."""
    authority, certificate, key, _ = credentials.files(role)
    command = [str(engine.python), str(ASK), cluster.settings().address]
    command += [str(cluster.places.tls / file) for file in (authority, certificate, key)]
    command += [request, hashlib.sha256(name.encode()).hexdigest()]
    token = token or token_of(cluster, role)
    result = subprocess.run(command, input=token, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def worker(cluster, engine, role, name):
    """A worker that shows the credentials of a role."""
    told = [each.replace(f"/{WORKER}.", f"/{role}.") for each in credentials.worker_options(cluster.places.tls, "bots")]
    command = [f"{engine.buildbox}/buildbox-worker", f"--bots-remote=https://{cluster.settings().address}", *told]
    command += [f"--cas-remote=unix:{cluster.places.casd_socket}", "--platform", "Pool=cpu", "--bots-retry-limit=0"]
    command += [f"--buildbox-run={cluster.places.run}/run_action.sh", name]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def workers_of(cluster):
    return {each.name for each in trial.status(cluster).workers}


def test_a_client_executes(cluster, workspace, tunnel):
    outcome = workspace.test(cluster.settings(), *through(tunnel, token_of(cluster, CLIENT)))
    assert outcome.status == 0, outcome.said
    assert "worker=gpu-1" in outcome.log("gpu_test")


def test_a_worker_does_not_execute(cluster, workspace, tunnel, engine):
    outcome = workspace.test(cluster.settings(), *through(tunnel, token_of(cluster, WORKER)), "--nocache_test_results")
    assert outcome.status != 0
    assert "PERMISSION_DENIED: the token of a worker does not allow Execute" in outcome.said
    said = ask(cluster, engine, WORKER, "Execute")
    assert said == "PERMISSION_DENIED the token of a worker does not allow Execute"
    assert ask(cluster, engine, WORKER, "GetCapabilities") == "OK"


def test_a_token_of_another_cluster_is_refused(cluster, engine):
    foreign = credentials.token("0" * 64, CLIENT)
    said = ask(cluster, engine, CLIENT, "GetCapabilities", token=foreign)
    assert said.startswith("UNAUTHENTICATED Invalid authentication token: show a token of this cluster")


def test_a_token_that_has_expired_is_refused(cluster, engine):
    secret = (cluster.places.tls / "token.secret").read_text()
    for seconds, expected in ((60, "OK"), (-60, "UNAUTHENTICATED Expired authentication token")):
        token = credentials.token(secret, CLIENT, datetime.timedelta(seconds=seconds))
        assert ask(cluster, engine, CLIENT, "GetCapabilities", token=token).startswith(expected)


def test_nobody_speaks_without_a_certificate(cluster):
    context = ssl.create_default_context(cafile=cluster.places.tls / "ca.pem")
    context.set_alpn_protocols(["h2"])

    def first_byte():
        plain = socket.create_connection((cluster.settings().host, cluster.settings().port), 10)
        # (that the other side breaks off is an error, not an end)
        with context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as tls:
            return tls.recv(1)

    with pytest.raises(ssl.SSLError):
        first_byte()
    context.load_cert_chain(cluster.places.tls / "client.pem", cluster.places.tls / "client.key")
    assert first_byte()


def test_a_client_does_not_write_results(cluster, engine):
    said = ask(cluster, engine, CLIENT, "UpdateActionResult", name="a client's")
    assert said == "PERMISSION_DENIED the token of a client does not allow UpdateActionResult"
    assert ask(cluster, engine, CLIENT, "GetActionResult", name="a client's").startswith("NOT_FOUND")
    assert ask(cluster, engine, WORKER, "UpdateActionResult", name="a worker's") == "OK"
    assert ask(cluster, engine, CLIENT, "GetActionResult", name="a worker's") == "OK"


def test_nobody_brings_a_blob_under_a_false_name(cluster, engine):
    for role in (CLIENT, WORKER):
        code, _, said = ask(cluster, engine, role, "BatchUpdateBlobs", name="false").partition(" ")
        assert int(code) != 0
        assert "digest" in said.lower() or "hash" in said.lower()


def test_a_client_does_not_register_as_a_worker(cluster, engine):
    honest = worker(cluster, engine, WORKER, "honest")
    try:
        trial.wait_for(lambda: "honest" in workers_of(cluster), 20)
    finally:
        honest.kill()
        honest.communicate()
    intruder = worker(cluster, engine, CLIENT, "intruder")
    try:
        _, said = intruder.communicate(timeout=20)
    finally:
        intruder.kill()
        intruder.wait()
    assert "the token of a client does not allow CreateBotSession" in said
    assert "intruder" not in workers_of(cluster)
