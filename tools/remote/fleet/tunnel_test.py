import asyncio
import contextlib
import os
import signal
import socket
import ssl
import time

import pytest

from tools.remote import credentials
from tools.remote.fleet.far import FarScheduler
from tools.remote.fleet.tunnel import Tunnel, run

PAYLOAD = os.urandom(1 << 20) * 4
# More than sockets and buffers on a way take together.
ENDLESS = 64 << 20


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


def scheduler(port, folder):
    return FarScheduler(f"grpcs://127.0.0.1:{port}", folder, "client")


def server_context(folder):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=folder / "ca.pem")
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    return context


@contextlib.asynccontextmanager
async def far(handle, context):
    """A server that does `handle` with each connection, then closes it; its port."""

    async def closing(reader, writer):
        try:
            with contextlib.suppress(OSError):
                await handle(reader, writer)
            writer.close()
        except asyncio.CancelledError:
            writer.transport.abort()
            raise

    server = await asyncio.start_server(closing, "127.0.0.1", ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


@contextlib.asynccontextmanager
async def tunnel_to(folder, handle, context=None, say=lambda _: None):
    """A tunnel to a server that does `handle`; where it listens."""
    async with far(handle, context or server_context(folder)) as port:
        server = await Tunnel(scheduler(port, folder), say).open(0)
        async with server:
            yield server.sockets[0].getsockname()


@contextlib.asynccontextmanager
async def through(folder, handle):
    """A connection through a tunnel to a server that does `handle`."""
    async with tunnel_to(folder, handle) as address:
        reader, writer = await asyncio.open_connection(*address)
        yield reader, writer
        if not writer.is_closing():
            writer.transport.abort()


async def echo(reader, writer):
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()


def test_bytes_arrive_as_they_were_in_both_directions(folder):
    async def scenario():
        async with through(folder, echo) as (reader, writer):
            writer.write(PAYLOAD)
            return await reader.readexactly(len(PAYLOAD))

    assert asyncio.run(scenario()) == PAYLOAD


def test_connections_do_not_wait_for_each_other(folder):
    async def scenario():
        async with tunnel_to(folder, echo) as address:
            assert address[0] == "127.0.0.1"
            pairs = [await asyncio.open_connection(*address) for _ in range(3)]
            for number, (_, writer) in reversed(list(enumerate(pairs))):
                writer.write(b"%d" % number)
            found = [await reader.readexactly(1) for reader, _ in pairs]
            for _, writer in pairs:
                writer.transport.abort()
            return found

    assert asyncio.run(scenario()) == [b"0", b"1", b"2"]


def test_what_a_scheduler_says_last_arrives(folder):
    async def say_and_end(reader, writer):
        await reader.readexactly(1)
        writer.write(PAYLOAD)

    async def scenario():
        async with through(folder, say_and_end) as (reader, writer):
            writer.write(b"?")
            await asyncio.sleep(0.2)
            # (nobody reads this any more)
            writer.write(PAYLOAD)
            return await reader.read(-1)

    assert asyncio.run(scenario()) == PAYLOAD


def test_a_scheduler_hears_all_and_then_that_the_client_ended(folder):
    heard = asyncio.Queue()

    async def listen(reader, writer):
        heard.put_nowait(await reader.read(-1))

    async def scenario():
        async with through(folder, listen) as (_, writer):
            writer.write(PAYLOAD)
            writer.close()
            return await asyncio.wait_for(heard.get(), 5)

    assert asyncio.run(scenario()) == PAYLOAD


def test_a_client_that_is_killed_is_missed(folder):
    ended = asyncio.Event()

    async def listen(reader, writer):
        with contextlib.suppress(OSError):
            await reader.read(-1)
        ended.set()

    async def scenario():
        async with through(folder, listen) as (_, writer):
            writer.write(b"!")
            await asyncio.sleep(0.2)
            reset = b"\1\0\0\0\0\0\0\0"
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            writer.transport.abort()
            await asyncio.wait_for(ended.wait(), 5)

    asyncio.run(scenario())


async def write_until_stuck(writer):
    """The bytes that were taken before none were for a second."""
    sent, chunk = 0, b"x" * (1 << 16)
    with contextlib.suppress(TimeoutError):
        while sent < ENDLESS:
            writer.write(chunk)
            sent += len(chunk)
            await asyncio.wait_for(writer.drain(), 1)
    return sent


def test_a_client_waits_for_a_scheduler_that_does_not_read(folder):
    async def wait(reader, writer):
        reader._transport.pause_reading()
        await asyncio.Event().wait()

    async def scenario():
        async with through(folder, wait) as (_, writer):
            return await write_until_stuck(writer)

    assert asyncio.run(scenario()) < ENDLESS


def test_a_scheduler_waits_for_a_client_that_does_not_read(folder):
    sent = asyncio.Queue()

    async def talk(reader, writer):
        sent.put_nowait(await write_until_stuck(writer))

    async def scenario():
        async with through(folder, talk) as (reader, _):
            reader._transport.pause_reading()
            return await sent.get()

    assert asyncio.run(scenario()) < ENDLESS


def test_a_connection_that_fails_is_told_and_ended(folder, foreign):
    said = []

    async def scenario():
        async with tunnel_to(folder, echo, server_context(foreign), said.append) as address:
            reader, writer = await asyncio.open_connection(*address)
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()

    asyncio.run(scenario())
    assert len(said) == 1
    assert "shows a certificate that is not of" in said[0]


def test_a_port_that_is_taken(folder):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ValueError, match=rf"--port {port} of 127.0.0.1: .*in use.*; name another"):
            asyncio.run(Tunnel(scheduler(port, folder)).open(port))


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_when_told_also_with_a_connection(folder, name):
    addresses, ends = [], []

    async def scenario():
        async with far(echo, server_context(folder)) as port:
            tunnel = asyncio.create_task(run(scheduler(port, folder), 0, addresses.append, print))
            while not addresses:
                await asyncio.sleep(0.01)
            host, _, found = addresses[0].partition(":")
            reader, writer = await asyncio.open_connection(host, found)
            writer.write(b"!")
            await reader.readexactly(1)
            ends.append(time.monotonic())
            os.kill(os.getpid(), name)
            await tunnel
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(host, found)
            writer.close()

    asyncio.run(scenario())
    assert time.monotonic() - ends[0] < 2
