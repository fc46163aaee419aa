"""Puts the phases that a second source recorded into the attempts that Bazel's events name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from tools.remote.timeline.attempts import Attempt, Phase

# Sources round to milliseconds, and read their clocks a little apart.
_AGREE_SECONDS = 0.02


@dataclasses.dataclass(frozen=True)
class Record:
    """What a second source says of something that ran.

    Attributes:
      label: of the target.
      phases: in order of start; one of them is `ran`.
      shard: from 1; None if the source does not tell.
      worker: who ran it; None if the source does not tell.
      pool: that it was sent to; None if the source does not tell.
      tries: how often it was handed to a worker; None if the source does not tell.
    """

    label: str
    phases: tuple[Phase, ...]
    shard: int | None = None
    worker: str | None = None
    pool: str | None = None
    tries: int | None = None

    @property
    def ran(self) -> Phase:
        """The phase in which the program ran."""
        (found,) = (phase for phase in self.phases if phase.name == "ran")
        return found


def merge(attempts: Iterable[Attempt], records: Sequence[Record]) -> list[Attempt]:
    """The attempts, with the phases of the records that belong to them; others stay as they are.

    No source names the attempt. A record belongs to one that agrees in label, shard and worker and that ran equally
    long; among several it is the nearest in time. So what Bazel runs beside a test, such as the program that writes
    test.xml, is left out. Phases that a record lacks are taken from the attempt.
    """
    free = list(records)
    merged = []
    for attempt in attempts:
        ran = next((phase for phase in attempt.phases if phase.name == "ran"), None)
        fits = [record for record in free if ran and _agree(attempt, ran, record)]
        if ran is None or not fits:
            merged.append(attempt)
            continue
        best = min(fits, key=lambda record: abs(record.ran.start - ran.start))
        free.remove(best)
        known = {phase.name for phase in best.phases}
        phases = [*best.phases, *(phase for phase in attempt.phases if phase.name not in known)]
        merged.append(
            dataclasses.replace(
                attempt,
                phases=tuple(sorted(phases, key=lambda phase: phase.start)),
                worker=best.worker or attempt.worker,
                pool=best.pool or attempt.pool,
                tries=best.tries if best.tries is not None else attempt.tries,
            )
        )
    return merged


def _agree(attempt: Attempt, ran: Phase, record: Record) -> bool:
    return (
        record.label == attempt.label
        and record.shard in (None, attempt.shard)
        and (not record.worker or not attempt.worker or record.worker == attempt.worker)
        and abs(record.ran.seconds - ran.seconds) <= _AGREE_SECONDS
    )
