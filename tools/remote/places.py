"""Where a cluster keeps what it writes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tools.bazel import store

# Linux takes 108 bytes for the path of a socket, its last zero included.
_LONGEST_SOCKET = 107
_SOCKETS = ("supervisor.sock", "casd.sock", ".s.PGSQL.5432")


@dataclasses.dataclass(frozen=True)
class Places:
    """The folders and files of a cluster.

    Attributes:
      home: all is below.
    """

    home: Path

    @property
    def run(self) -> Path:
        """Sockets, and what is written anew at each start."""
        return self.home / "run"

    @property
    def data(self) -> Path:
        """What outlives a restart: blobs, action results, jobs."""
        return self.home / "data"

    @property
    def log(self) -> Path:
        """A log per process."""
        return self.home / "log"

    @property
    def settings(self) -> Path:
        """What the cluster was asked to be."""
        return self.home / "cluster.json"

    @property
    def supervisor_socket(self) -> Path:
        """Where the supervisor is asked."""
        return self.run / _SOCKETS[0]

    @property
    def casd_socket(self) -> Path:
        """Where workers find the blobs."""
        return self.run / _SOCKETS[1]

    @property
    def tls(self) -> Path:
        """Certificates, keys and tokens."""
        return self.home / "tls"

    def make(self) -> None:
        """Makes the folders, for the user alone.

        Raises:
          ValueError: a socket's path would be too long.
        """
        longest = max(len(str(self.run / name)) for name in _SOCKETS)
        if longest > _LONGEST_SOCKET:
            raise ValueError(
                f"--home {self.home}: its sockets' paths have {longest} bytes, {longest - _LONGEST_SOCKET} more than "
                "Linux takes; name a shorter folder"
            )
        for folder in (self.run, self.data, self.log):
            folder.mkdir(parents=True, exist_ok=True)
        self.home.chmod(0o700)


def default_home(name: str) -> Path:
    """The home of the cluster called `name`, below the user's cache."""
    return store.root() / "remote" / name
