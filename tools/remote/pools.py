"""The pools that tests are sent to, and what a user asks of them."""

from __future__ import annotations

import dataclasses

# As testing/private/expand.bzl names them. The first takes what names no pool: actions that build.
POOLS = ("cpu", "gpu", "multi-gpu", "trainium")
# How a pool's tests are told which devices are theirs.
DEVICE_VARIABLES = {
    "gpu": "CUDA_VISIBLE_DEVICES",
    "multi-gpu": "CUDA_VISIBLE_DEVICES",
    "trainium": "NEURON_RT_VISIBLE_CORES",
}
# What a worker says of its devices beside its pool.
DEVICE_KINDS = {"cpu": "cpu", "gpu": "nvidia", "multi-gpu": "nvidia", "trainium": "neuroncore"}


@dataclasses.dataclass(frozen=True)
class Worker:
    """A worker: it runs one test at a time.

    Attributes:
      pool: one of POOLS.
      number: unique among those of its pool.
      devices: ids of the devices that are its own; () where it has none.
    """

    pool: str
    number: int
    devices: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Unique in a cluster: gpu-1."""
        return f"{self.pool}-{self.number}"

    @property
    def environ(self) -> dict[str, str]:
        """What tells its tests which devices are theirs: without any, none."""
        variable = DEVICE_VARIABLES.get(self.pool)
        return {variable: ",".join(map(str, self.devices))} if variable else {}

    @property
    def properties(self) -> dict[str, str]:
        """What it tells the scheduler of itself; a request may name these, and no others."""
        return {
            "Pool": self.pool,
            "OSFamily": "linux",
            "ISA": "x86-64",
            "DeviceKind": DEVICE_KINDS[self.pool],
            "DeviceCount": str(len(self.devices)),
        }


def check_pool(pool: str) -> str:
    """The same name.

    Raises:
      ValueError: there is no such pool.
    """
    if pool not in POOLS:
        raise ValueError(f"pool {pool!r}: there are {', '.join(POOLS)}")
    return pool


def parse_size(text: str) -> tuple[str, int]:
    """What `--pool gpu=2` says.

    Raises:
      ValueError: no such pool, or no number of workers.
    """
    pool, _, count = text.partition("=")
    check_pool(pool)
    if not count.isdecimal() or int(count) < 1:
        raise ValueError(f"--pool {text}: say how many workers, such as --pool {pool}=2")
    return pool, int(count)


def parse_devices(text: str) -> tuple[int, ...]:
    """What `--devices 0,1` says; () for "".

    Raises:
      ValueError: not numbers, or one twice.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isdecimal() for word in words) or len(set(words)) != len(words):
        raise ValueError(f"--devices {text}: numbers of devices, each once, such as --devices 0,1")
    return tuple(map(int, words))
