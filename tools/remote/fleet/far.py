"""A connection with TLS to a scheduler on another host, by one who shows credentials of its cluster."""

from __future__ import annotations

import asyncio
import re
import ssl
from pathlib import Path

from tools.remote import credentials

# The most that is read at once, in bytes.
CHUNK = 1 << 16
_PROTOCOL = "h2"
_CONNECT_SECONDS = 10
# How long the other side may take to read the rest, when this one has ended.
_SHUTDOWN_SECONDS = 30
# How a client begins (RFC 9113, 3.4): its preface and its settings, none.
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


class FarScheduler:
    """A scheduler, and who asks it.

    Attributes:
      address: HOST:PORT.
    """

    def __init__(self, url: str, folder: Path, role: str) -> None:
        """See the class.

        Args:
          url: grpcs://HOST:PORT.
          folder: of the credentials.
          role: whose credentials.

        Raises:
          ValueError: the address or the credentials are not what they should be.
        """
        found = re.fullmatch(r"grpcs://(?P<host>[^/:]+):(?P<port>\d+)", url)
        if not found:
            raise ValueError(f"--scheduler {url}: one with TLS is asked for, grpcs://HOST:PORT")
        credentials.check(folder, role)
        self.address = url.removeprefix("grpcs://")
        self._host, self._port = found["host"], int(found["port"])
        *names, _ = credentials.files(role)
        self._authority, self._certificate, key = (folder / name for name in names)
        try:
            self._context = ssl.create_default_context(cafile=self._authority)
            self._context.load_cert_chain(self._certificate, key)
        except ssl.SSLError as error:
            raise ValueError(
                f"--credentials {folder}: {', '.join(names)} do not belong together ({error}): copy all of them anew "
                "from the `tls` folder of the scheduler's cluster"
            ) from error
        self._context.set_alpn_protocols([_PROTOCOL])

    async def check(self) -> None:
        """Asks it whether it speaks with this role.

        Raises:
          ValueError: it does not; the message says why and what to do.
        """
        reader, writer = await self.connect()
        try:
            writer.write(_HELLO)
            # (with TLS 1.3 a server that refuses a certificate says so after the handshake, or just leaves)
            async with asyncio.timeout(_CONNECT_SECONDS):
                if not await reader.read(1):
                    raise ssl.SSLError(0, "it ends the connection")
        except OSError as error:
            raise ValueError(self.explain(error)) from error
        finally:
            writer.transport.abort()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection that speaks HTTP/2.

        Raises:
          ValueError: there is none; the message says why and what to do.
        """
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                reader, writer = await asyncio.open_connection(
                    self._host, self._port, ssl=self._context, limit=CHUNK, ssl_shutdown_timeout=_SHUTDOWN_SECONDS
                )
        except OSError as error:
            raise ValueError(self.explain(error)) from error
        if writer.get_extra_info("ssl_object").selected_alpn_protocol() != _PROTOCOL:
            writer.transport.abort()
            raise ValueError(f"{self.address} speaks TLS, but not HTTP/2: is it a scheduler?")
        return reader, writer

    def explain(self, error: OSError) -> str:
        """What went wrong on a connection, and what to do."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return (
                f"{self.address} shows a certificate that is not of {self._authority}, or not of this name "
                f"({error.verify_message}): name it as its `up --host` does, or copy its credentials anew"
            )
        if isinstance(error, ssl.SSLError):
            return (
                f"{self.address} takes no connection with {self._certificate} ({error.strerror or error}): copy the "
                "credentials of its cluster anew, and see that it was brought up with --secure"
            )
        return (
            f"{self.address} does not answer ({error or type(error).__name__}): is the cluster up, and does it listen "
            "there (`up --host`)?"
        )
