import asyncio
import contextlib
import socket
import ssl

import pytest

from tools.remote import credentials
from tools.remote.fleet.far import FarScheduler


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("cluster") / "tls"
    credentials.make(made, [])
    return made


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    made = tmp_path_factory.mktemp("foreign") / "tls"
    credentials.make(made, [])
    return made


def server_context(folder, protocols=("h2",)):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=folder / "ca.pem")
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(protocols)
    return context


async def answer(reader, writer):
    with contextlib.suppress(OSError):
        writer.write(await reader.read(1 << 10))
    writer.close()


def check(folder, context, host="127.0.0.1", role="client"):
    """Asks a server with this context."""

    async def scenario():
        async with await asyncio.start_server(answer, host, ssl=context) as server:
            port = server.sockets[0].getsockname()[1]
            await FarScheduler(f"grpcs://{host}:{port}", folder, role).check()

    asyncio.run(scenario())


@pytest.mark.parametrize("role", ["client", "worker"])
def test_a_scheduler_that_takes_the_certificate(folder, role):
    check(folder, server_context(folder), role=role)


def test_a_scheduler_of_another_cluster(folder, foreign):
    with pytest.raises(ValueError, match=r"127.0.0.1:\d+ shows a certificate that is not of .*/ca.pem"):
        check(folder, server_context(foreign))


def test_a_scheduler_of_another_name(folder):
    with pytest.raises(ValueError, match=r"127.0.0.2:\d+ shows .*IP address mismatch.*name it as its `up --host` does"):
        check(folder, server_context(folder), "127.0.0.2")


def test_a_client_of_another_cluster(folder, foreign, tmp_path):
    for source, names in ((folder, ["ca.pem"]), (foreign, ["client.pem", "client.key", "client.token"])):
        for name in names:
            (tmp_path / name).write_bytes((source / name).read_bytes())
            (tmp_path / name).chmod(0o600)
    with pytest.raises(ValueError, match=r"takes no connection with .*/client.pem \(.*\): copy the credentials"):
        check(tmp_path, server_context(folder))


def test_a_server_without_tls(folder):
    with pytest.raises(ValueError, match=r"takes no connection .* see that it was brought up with --secure"):
        check(folder, None)


def test_a_server_without_http2(folder):
    with pytest.raises(ValueError, match="speaks TLS, but not HTTP/2"):
        check(folder, server_context(folder, ("http/1.1",)))


def test_nobody_there(folder):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
        with pytest.raises(ValueError, match=f"{address} does not answer .*: is the cluster up"):
            asyncio.run(FarScheduler(f"grpcs://{address}", folder, "client").check())


@pytest.mark.parametrize("scheduler", ["grpc://far:50051", "grpcs://far", "far:50051"])
def test_one_with_tls_is_asked_for(folder, scheduler):
    with pytest.raises(ValueError, match=f"--scheduler {scheduler}: .*grpcs://HOST:PORT"):
        FarScheduler(scheduler, folder, "client")


def test_a_key_of_another_certificate(folder, tmp_path):
    for name in credentials.files("client"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
        (tmp_path / name).chmod(0o600)
    (tmp_path / "client.key").write_bytes((folder / "worker.key").read_bytes())
    with pytest.raises(ValueError, match=r"ca.pem, client.pem, client.key do not belong together"):
        FarScheduler("grpcs://far:50051", tmp_path, "client")
