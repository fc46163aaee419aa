"""How the programs of this host speak to the scheduler of another."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

# As `credentials.make` names them.
_FILES = {
    "server-cert": "ca.pem",
    "client-cert": "worker.pem",
    "client-key": "worker.key",
    "access-token": "worker.token",
}


def url(scheduler: str) -> str:
    """What BuildBox calls grpc://HOST:PORT or grpcs://HOST:PORT."""
    return scheduler.replace("grpc", "http", 1)


def shown(service: str, credentials: str) -> Sequence[str]:
    """What a program of BuildBox is told, to show who it is.

    Args:
      service: of the scheduler, "bots" or "cas".
      credentials: folder of the worker's certificate, key and token; "" for none.
    """
    return [f"--{service}-{option}={credentials}/{file}" for option, file in _FILES.items()] if credentials else []


def check(scheduler: str, credentials: str) -> None:
    """Looks whether all is there.

    Raises:
      ValueError: a file of the credentials is missing, or others may read the key, or they are not asked for.
    """
    if scheduler.startswith("grpcs:") != bool(credentials):
        raise ValueError(
            f"--scheduler {scheduler} with --credentials {credentials or 'unset'}: grpcs:// takes credentials (the "
            "`tls` folder of the scheduler's cluster has those of a worker), grpc:// takes none"
        )
    if not credentials:
        return
    missing = [name for name in _FILES.values() if not (Path(credentials) / name).is_file()]
    if missing:
        raise ValueError(
            f"--credentials {credentials}: {', '.join(missing)} not there; copy {', '.join(_FILES.values())} from the "
            "`tls` folder of the scheduler's cluster"
        )
    for name in ("worker.key", "worker.token"):
        file = Path(credentials) / name
        if file.stat().st_mode & 0o077:
            raise ValueError(f"others than you may read {file}: chmod 600 {shlex.quote(str(file))}")
