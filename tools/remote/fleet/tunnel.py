"""Carries the connections of a Bazel that speaks no TLS to a scheduler that takes nothing else.

Bazel speaks to a port of loopback; TLS leaves this machine. What is said is HTTP/2 on both sides: bytes are passed on as
they come.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import ssl
from collections.abc import Callable
from pathlib import Path

from tools.remote import credentials

HOST = "127.0.0.1"
PORT = 50061
_PROTOCOL = "h2"
_CHUNK = 1 << 16
_CONNECT_SECONDS = 10
# How long one side may take to read the rest, when the other has ended a connection.
_LINGER_SECONDS = 30
# How a client begins (RFC 9113, 3.4): its preface and its settings, none.
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))

_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Tunnel:
    """A way to one scheduler.

    Attributes:
      scheduler: its address, HOST:PORT.
    """

    def __init__(self, scheduler: str, folder: Path, say: Callable[[str], None] = lambda _: None) -> None:
        """See the class.

        Args:
          scheduler: grpcs://HOST:PORT.
          folder: of a client's credentials.
          say: told when a connection fails.

        Raises:
          ValueError: the address or the credentials are not what they should be.
        """
        found = re.fullmatch(r"grpcs://(?P<host>[^/:]+|\[[0-9a-f:]+\]):(?P<port>\d+)", scheduler)
        if not found:
            raise ValueError(f"--scheduler {scheduler}: a tunnel leads to a scheduler with TLS, grpcs://HOST:PORT")
        credentials.check(folder, credentials.CLIENT)
        self.scheduler = scheduler.removeprefix("grpcs://")
        self._host, self._port = found["host"].strip("[]"), int(found["port"])
        self._folder, self._say = folder, say
        authority, certificate, key, _ = (folder / name for name in credentials.files(credentials.CLIENT))
        try:
            self._context = ssl.create_default_context(cafile=authority)
            self._context.load_cert_chain(certificate, key)
        except ssl.SSLError as error:
            raise ValueError(
                f"--credentials {folder}: {authority.name}, {certificate.name} and {key.name} do not belong together "
                f"({error}): copy all of them anew from the `tls` folder of the scheduler's cluster"
            ) from error
        self._context.set_alpn_protocols([_PROTOCOL])

    async def check(self) -> None:
        """Asks the scheduler whether it speaks with this client.

        Raises:
          ValueError: it does not; the message says why and what to do.
        """
        reader, writer = await self._connect()
        try:
            writer.write(_HELLO)
            # (with TLS 1.3 a server that refuses the client's certificate says so after the handshake)
            async with asyncio.timeout(_CONNECT_SECONDS):
                if not await reader.read(1):
                    raise ssl.SSLError(0, "it ends the connection")
        except OSError as error:
            raise ValueError(self._explained(error)) from error
        finally:
            writer.transport.abort()

    async def open(self, port: int) -> asyncio.Server:
        """Listens on loopback and carries what comes; closing the server leaves what is under way.

        Args:
          port: 0 for any that is free.

        Raises:
          ValueError: the port is taken.
        """
        try:
            return await asyncio.start_server(self._carry, HOST, port, limit=_CHUNK)
        except OSError as error:
            raise ValueError(f"--port {port} of {HOST}: {error.strerror}; name another") from error

    async def _connect(self) -> _Connection:
        """A connection to the scheduler.

        Raises:
          ValueError: there is none; the message says why and what to do.
        """
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._context, limit=_CHUNK)
        except OSError as error:
            raise ValueError(self._explained(error)) from error
        if writer.get_extra_info("ssl_object").selected_alpn_protocol() != _PROTOCOL:
            writer.transport.abort()
            raise ValueError(f"{self.scheduler} speaks TLS, but not HTTP/2: is it a scheduler?")
        return reader, writer

    def _explained(self, error: OSError) -> str:
        if isinstance(error, ssl.SSLCertVerificationError):
            return (
                f"{self.scheduler} shows a certificate that is not of {self._folder}/ca.pem, or not of this name "
                f"({error.verify_message}): name it as its `up --host` does, or copy its credentials anew"
            )
        if isinstance(error, ssl.SSLError):
            return (
                f"{self.scheduler} takes no connection with {self._folder}/client.pem ({error.strerror or error}): copy "
                "the credentials of its cluster anew, and see that it was brought up with --secure"
            )
        return (
            f"{self.scheduler} does not answer ({error or type(error).__name__}): is the cluster up, and does it listen "
            "there (`up --secure --host`)?"
        )

    async def _carry(self, near_reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        """Carries one connection until either side ends it."""
        far = None
        try:
            far_reader, far = await self._connect()
            ways = [
                asyncio.ensure_future(_pass_on(near_reader, far)),
                asyncio.ensure_future(_pass_on(far_reader, near)),
            ]
            try:
                ended, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
            for error in await asyncio.gather(*ways, return_exceptions=True):
                if isinstance(error, ssl.SSLError):
                    self._say(self._explained(error))
            if ways[1] in ended:
                await _linger(near_reader, near)
        except ValueError as error:
            self._say(str(error))
        except asyncio.CancelledError:
            for writer in (near, far):
                if writer:
                    writer.transport.abort()
            raise
        # (no half of a connection stays open: with TLS none can, and HTTP/2 has no use for it)
        for writer in (near, far):
            if writer:
                await _end(writer)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Passes on what comes, as fast as it is taken, to the end."""
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Tells a client that all is said, and waits until it ends, too.

    A socket that is closed with something unread is reset, and the client loses what it has not read yet.
    """
    with contextlib.suppress(OSError):
        writer.write_eof()
        async with asyncio.timeout(_LINGER_SECONDS):
            while await reader.read(_CHUNK):
                pass


async def _end(writer: asyncio.StreamWriter) -> None:
    """Closes a connection, once what was written is sent; after some seconds in any case."""
    writer.close()
    try:
        async with asyncio.timeout(_LINGER_SECONDS):
            await writer.wait_closed()
    except OSError:
        writer.transport.abort()


async def run(tunnel: Tunnel, port: int, say: Callable[[str], None]) -> None:
    """Carries connections until SIGINT or SIGTERM.

    Args:
      tunnel: the way.
      port: of loopback; 0 for any that is free.
      say: told the address, HOST:PORT, once it listens.

    Raises:
      ValueError: the scheduler does not speak with this client, or the port is taken.
    """
    ended = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, ended.set)
    await tunnel.check()
    server = await tunnel.open(port)
    say(f"{HOST}:{server.sockets[0].getsockname()[1]}")
    await ended.wait()
    server.close()
