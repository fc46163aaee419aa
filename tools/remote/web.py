"""Serves the status of a cluster on loopback: a page, JSON, and metrics for Prometheus."""

from __future__ import annotations

import argparse
import dataclasses
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tools.remote import shipped, status, status_metrics, status_page
from tools.remote.places import Places
from tools.remote.status import Status

HOST = "127.0.0.1"
# So long an answer serves all who ask.
_FRESH_SECONDS = 1.0
_VIEWS: dict[str, tuple[str, Callable[[Status], str]]] = {
    "/": ("text/html; charset=utf-8", status_page.render),
    "/status.json": ("application/json", lambda found: json.dumps(dataclasses.asdict(found), indent=1) + "\n"),
    "/metrics": (status_metrics.CONTENT_TYPE, status_metrics.render),
}
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Server(ThreadingHTTPServer):
    """The server; who is on this machine may ask.

    Attributes:
      read: what is asked for the status.
    """

    daemon_threads = True

    def __init__(self, port: int, read: Callable[[], Status]) -> None:
        """See the class.

        Args:
          port: of loopback to listen on; 0 takes any that is free.
          read: what is asked for the status.

        Raises:
          OSError: the port is taken.
        """
        super().__init__((HOST, port), _Handler)
        self.read = read
        self._lock = threading.Lock()
        self._last: tuple[float, Status] | None = None

    def status(self) -> Status:
        """The status, at most a second old."""
        with self._lock:
            if self._last is None or time.monotonic() - self._last[0] > _FRESH_SECONDS:
                found = self.read()
                self._last = (time.monotonic(), found)
            return self._last[1]


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version = "trainyard"
    sys_version = ""

    def do_GET(self) -> None:
        # (a page of another site whose name leads here must not read it)
        if self.headers.get("Host", "").partition(":")[0] not in (HOST, "localhost"):
            self._answer(403, "text/plain", f"ask for http://{HOST}:{self.server.server_port}/\n")
            return
        view = _VIEWS.get(self.path.partition("?")[0])
        if view is None:
            self._answer(404, "text/plain", f"there are {', '.join(_VIEWS)}\n")
            return
        kind, render = view
        try:
            self._answer(200, kind, render(self.server.status()))
        except ValueError as error:
            self._answer(500, "text/plain", f"{error}\n")

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing of those who ask."""

    def _answer(self, code: int, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(code)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(body)), **_HEADERS}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)


def server(places: Places, psql: Path, port: int) -> Server:
    """What serves the cluster at `places`.

    Args:
      places: where the cluster keeps what it writes.
      psql: PostgreSQL's program.
      port: of loopback; 0 takes any that is free.

    Raises:
      ValueError: the port is taken.
    """
    try:
        return Server(port, lambda: status.read(places, psql))
    except OSError as error:
        raise ValueError(f"port {port} of {HOST} is taken by another program: name one, --port N ({error})") from error


def ship(folder: Path) -> None:
    """Makes `folder` hold all that this module needs of the repo, for a process that outlives `bazel run`."""
    shipped.ship(folder, [status_page.TEMPLATE])


def main() -> None:
    """The process of a cluster that serves its status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--psql", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    with server(Places(arguments.home), arguments.psql, arguments.port) as found:
        found.serve_forever()


if __name__ == "__main__":
    main()
