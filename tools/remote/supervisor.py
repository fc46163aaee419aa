"""Asks supervisor, over its Unix socket."""

from __future__ import annotations

import http.client
import socket
import xmlrpc.client
from pathlib import Path
from typing import Any


class SupervisorError(Exception):
    """The supervisor is not there, or does not do what was asked."""


class Supervisor:
    """The supervisor that listens on `path`.

    Attributes:
      path: its Unix socket.
    """

    def __init__(self, path: Path) -> None:
        """See the class."""
        self.path = path

    def ask(self, method: str, *arguments: Any) -> Any:
        """What it answers to a method of its XML-RPC interface, such as "supervisor.getState".

        Raises:
          SupervisorError: it is not there, or says no.
        """
        try:
            with xmlrpc.client.ServerProxy("http://cluster", transport=_Transport(self.path)) as proxy:
                return getattr(proxy, method)(*arguments)
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
            raise SupervisorError(f"the supervisor does not do {method}{arguments}: {error}") from error

    def processes(self) -> list[dict[str, Any]]:
        """What it says of each process: its `name`, `statename`, `pid`, `start` and `stop` in seconds since the epoch.

        Raises:
          SupervisorError: it is not there.
        """
        found: list[dict[str, Any]] = self.ask("supervisor.getAllProcessInfo")
        return found


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = _Connection(self._path)
        self._connection = host, connection  # (what `close` closes)
        return connection
