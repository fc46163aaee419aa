"""Carries the connections of a Bazel that speaks no TLS to a scheduler that takes nothing else.

Bazel speaks to a port of loopback; TLS leaves this machine. Both sides speak HTTP/2: bytes are passed on as they come.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import ssl
from collections.abc import Callable

from tools.remote.fleet.far import CHUNK, FarScheduler

HOST = "127.0.0.1"
PORT = 50061
# How long one side may take to read the rest, when the other has ended a connection.
_LINGER_SECONDS = 30


class Tunnel:
    """A way to one scheduler."""

    def __init__(self, scheduler: FarScheduler, say: Callable[[str], None] = lambda _: None) -> None:
        """See the class.

        Args:
          scheduler: as a client asks it.
          say: told when a connection fails.
        """
        self._scheduler, self._say = scheduler, say

    async def open(self, port: int) -> asyncio.Server:
        """Listens on loopback and carries what comes; closing the server leaves what is under way.

        Args:
          port: 0 for any that is free.

        Raises:
          ValueError: the port is taken.
        """
        try:
            return await asyncio.start_server(self._carry, HOST, port, limit=CHUNK)
        except OSError as error:
            raise ValueError(f"--port {port} of {HOST}: {error.strerror}; name another") from error

    async def _carry(self, near_reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        """Carries one connection until either side ends it."""
        far = None
        try:
            far_reader, far = await self._scheduler.connect()
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
                    self._say(self._scheduler.explain(error))
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
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Tells a client that all is said, and waits until it ends, too.

    A socket that is closed with something unread is reset, and the client loses what it has not read yet.
    """
    with contextlib.suppress(OSError):
        writer.write_eof()
        async with asyncio.timeout(_LINGER_SECONDS):
            while await reader.read(CHUNK):
                pass


async def _end(writer: asyncio.StreamWriter) -> None:
    """Closes a connection, once what was written is sent; after some seconds in any case."""
    writer.close()
    try:
        async with asyncio.timeout(_LINGER_SECONDS):
            await writer.wait_closed()
    except OSError:
        writer.transport.abort()


async def run(scheduler: FarScheduler, port: int, opened: Callable[[str], None], say: Callable[[str], None]) -> None:
    """Carries connections until SIGINT or SIGTERM.

    Args:
      scheduler: as a client asks it.
      port: of loopback; 0 for any that is free.
      opened: told the address, HOST:PORT, once it listens.
      say: told when a connection fails.

    Raises:
      ValueError: the scheduler does not speak with this client, or the port is taken.
    """
    ended = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, ended.set)
    await scheduler.check()
    server = await Tunnel(scheduler, say).open(port)
    opened(f"{HOST}:{server.sockets[0].getsockname()[1]}")
    await ended.wait()
    server.close()
