"""What a cluster was asked to be: kept, so that it can be brought up again as it was."""

from __future__ import annotations

from pathlib import Path

import pydantic

from tools.remote.pools import POOLS, Worker, check_pool


class WorkerSettings(pydantic.BaseModel):
    """A worker, as `pools.Worker`."""

    model_config = pydantic.ConfigDict(extra="forbid")

    pool: str
    number: int
    devices: tuple[int, ...] = ()

    @pydantic.field_validator("pool")
    @classmethod
    def _known(cls, pool: str) -> str:
        return check_pool(pool)


class Settings(pydantic.BaseModel):
    """A cluster.

    Attributes:
      host: what the scheduler listens on; loopback unless asked.
      port: its port; the page of its status takes the next one, on loopback.
      quota: bytes that the store of blobs may take, such as 30G.
      queue_seconds: after how long a test fails whose pool has no worker.
      silence_seconds: after how long without a word a worker is taken for dead.
      abandon_seconds: after how long a test is cancelled for which no client waits.
      secure: TLS on both sides, and tokens.
      workers: all of them.
      scheduler: URL of one on another host that they work for; "" where the cluster has its own.
      credentials: folder of what they show to that one; "" for nothing.
    """

    model_config = pydantic.ConfigDict(extra="forbid")

    host: str = "127.0.0.1"
    port: int = pydantic.Field(default=50051, gt=1023, lt=65535)
    quota: str = pydantic.Field(default="30G", pattern=r"^\d+[KMGT]?$")
    queue_seconds: int = pydantic.Field(default=300, gt=0)
    silence_seconds: int = pydantic.Field(default=60, ge=12)
    abandon_seconds: int = pydantic.Field(default=30, gt=0)
    secure: bool = False
    workers: tuple[WorkerSettings, ...] = ()
    scheduler: str = pydantic.Field(default="", pattern=r"^(grpcs?://[^/:]+:\d+)?$")
    credentials: str = ""

    @property
    def address(self) -> str:
        """Where the scheduler listens."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The same for clients and workers."""
        return f"{'grpcs' if self.secure else 'grpc'}://{self.address}"

    @property
    def web_port(self) -> int:
        """Where the page of its status is, on loopback."""
        return self.port + 1

    def all_workers(self) -> list[Worker]:
        """The workers."""
        return [Worker(each.pool, each.number, each.devices) for each in self.workers]

    def with_worker(self, pool: str, devices: tuple[int, ...] = ()) -> Settings:
        """The same with another worker.

        Raises:
          ValueError: no such pool, or a device that another worker owns.
        """
        check_pool(pool)
        owners = {(each.pool == "trainium", device): each for each in self.all_workers() for device in each.devices}
        for device in devices:
            owner = owners.get((pool == "trainium", device))
            if owner is not None:
                raise ValueError(f"device {device} belongs to worker {owner.name}: drain that one first")
        number = 1 + max((each.number for each in self.workers if each.pool == pool), default=0)
        added = WorkerSettings(pool=pool, number=number, devices=devices)
        order = sorted((*self.workers, added), key=lambda each: (POOLS.index(each.pool), each.number))
        return self.model_copy(update={"workers": tuple(order)})

    def without_worker(self, name: str) -> Settings:
        """The same without a worker.

        Raises:
          ValueError: there is none of this name.
        """
        names = [each.name for each in self.all_workers()]
        if name not in names:
            raise ValueError(f"no worker {name!r}: there are {', '.join(names) or 'none'}")
        kept = [each for each in self.workers if f"{each.pool}-{each.number}" != name]
        return self.model_copy(update={"workers": tuple(kept)})


def load(file: Path) -> Settings | None:
    """The settings in a file; None where there is none.

    Raises:
      ValueError: the file is not what this version writes.
    """
    if not file.exists():
        return None
    try:
        return Settings.model_validate_json(file.read_text())
    except pydantic.ValidationError as error:
        raise ValueError(
            f"{file} does not say what a cluster is: {error}; remove it and bring the cluster up anew"
        ) from error
