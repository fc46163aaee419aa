"""What is known of one attempt at a test: where it ran, and how long each phase took."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Literal

# In the order in which they happen. Of a local test: `queued` for a free core, `staged` as a sandbox.
PHASES = ("sent", "queued", "staged", "ran", "uploaded", "fetched")
# Those that keep a worker busy.
BUSY = ("staged", "ran", "uploaded")
GREEN = ("PASSED", "FLAKY")

Place = Literal["remote", "local", "remote cache", "disk cache", "bazel's cache"]


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of an attempt.

    Attributes:
      name: one of PHASES.
      start: seconds since 1970.
      seconds: how long it took.
    """

    name: str
    start: float
    seconds: float

    @property
    def end(self) -> float:
        """Seconds since 1970."""
        return self.start + self.seconds


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One attempt at one shard of a test.

    Attributes:
      label: of the test.
      shard: from 1; 0 for a test without shards.
      run: from 1: with --runs_per_test there are several.
      attempt: from 1: a flaky test has several.
      status: as Bazel says it, PASSED or FAILED.
      place: where it ran, or whose cache had the result.
      worker: its name; "" unless it ran remotely.
      pool: the pool that the test is for.
      start: when Bazel took it up, seconds since 1970; of a cached result: when the original ran.
      phases: in order of start; none of a cached result.
      tries: how often the scheduler handed it to a worker; None where nobody says.
    """

    label: str
    shard: int
    run: int
    attempt: int
    status: str
    place: Place
    worker: str
    pool: str
    start: float
    phases: tuple[Phase, ...] = ()
    tries: int | None = None

    @property
    def name(self) -> str:
        """The label, and what tells it from other attempts at the same target."""
        more = [f"{word} {number}" for word, number in (("shard", self.shard),) if number]
        more += [f"{word} {number}" for word, number in (("run", self.run), ("attempt", self.attempt)) if number > 1]
        return self.label + (f" ({', '.join(more)})" if more else "")

    @property
    def cached(self) -> bool:
        """Whether nothing ran."""
        return self.place not in ("remote", "local")

    @property
    def busy(self) -> float:
        """Seconds that it kept a worker busy."""
        return sum(phase.seconds for phase in self.phases if phase.name in BUSY)

    @property
    def end(self) -> float:
        """When its last phase ended, seconds since 1970."""
        return max((phase.end for phase in self.phases), default=self.start)

    def shares(self) -> str:
        """Whose workers it shares: the pool's, or "local", as this machine's cores serve tests of all pools."""
        return "local" if self.place == "local" else self.pool

    def seconds(self, phase: str) -> float | None:
        """How long a phase took; None where nobody says."""
        found = [each.seconds for each in self.phases if each.name == phase]
        return sum(found) if found else None

    def on_worker(self) -> tuple[float, float] | None:
        """From when to when it kept a worker, seconds since 1970; None if it did not."""
        kept = [phase for phase in self.phases if phase.name in BUSY]
        return (min(phase.start for phase in kept), max(phase.end for phase in kept)) if kept else None


def in_order(attempts: Iterable[Attempt]) -> list[Attempt]:
    """What ran by start, then what was cached by name."""
    return sorted(attempts, key=lambda each: (each.cached, 0.0 if each.cached else each.start, each.name))
