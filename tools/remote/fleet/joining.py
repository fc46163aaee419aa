"""What this host's part is, when its workers join the cluster of another."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tools.remote.credentials import WORKER
from tools.remote.fleet.far import FarScheduler
from tools.remote.settings import Settings


def url(scheduler: str) -> str:
    """What BuildBox calls grpc://HOST:PORT or grpcs://HOST:PORT."""
    return scheduler.replace("grpc", "http", 1)


def settings(kept: Settings | None, scheduler: str, folder: Path | None, quota: str) -> Settings:
    """Those of the part of this host.

    Args:
      kept: what it was so far; None for a first worker.
      scheduler: grpc://HOST:PORT or grpcs://HOST:PORT.
      folder: of a worker's credentials, which grpcs:// asks for.
      quota: disk that blobs may take here, such as "30G"; what is kept says it itself.

    Raises:
      ValueError: another scheduler's part is kept, or credentials are asked for and not given, or the reverse.
    """
    if scheduler.startswith("grpcs:") != bool(folder):
        raise ValueError(
            f"--scheduler {scheduler} with --credentials {folder or 'unset'}: grpcs:// takes credentials (the `tls` "
            "folder of the scheduler's cluster has those of a worker), grpc:// takes none"
        )
    if kept and kept.scheduler != scheduler:
        raise ValueError(
            f"the part of this host is of {kept.scheduler or 'a scheduler of its own'}, not of {scheduler}: name "
            "another folder, --home"
        )
    shown = str(folder.absolute()) if folder else ""
    return (kept or Settings(quota=quota, scheduler=scheduler)).model_copy(update={"credentials": shown})


def check(part: Settings) -> None:
    """Asks the scheduler whether it takes the credentials; one without TLS is asked nothing.

    Raises:
      ValueError: it does not; the message says why and what to do.
    """
    if part.credentials:
        asyncio.run(FarScheduler(part.scheduler, Path(part.credentials), WORKER).check())
