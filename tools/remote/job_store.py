"""What the scheduler's store knows of workers and jobs: one question to PostgreSQL, through its own program."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

# The window of the utilisation.
RECENT_SECONDS = 600
_TIMEOUT_SECONDS = 10

# BuildGrid keeps times in UTC without saying so. Stages are those of the Remote Execution API: 2 waits, 3 runs, 4 is
# done.
# (a job that several clients asked for has an operation for each: the first names it)
_QUESTION = f"""
with
clock as (select now() at time zone 'utc' as utc),
named as (
  select distinct on (operations.job_name) operations.job_name, action_mnemonic as mnemonic, target_id as label
  from operations join request_metadata on request_metadata.id = operations.request_metadata_id
  order by operations.job_name, operations.name
),
ran as (
  select worker_name as worker, property_label as pool, stage, coalesce(mnemonic, '') as mnemonic,
    coalesce(label, '') as label, worker_start_timestamp as began,
    case when stage = 3 then clock.utc else worker_completed_timestamp end as ended
  from clock, jobs left join named on named.job_name = jobs.name
  where worker_name is not null and worker_start_timestamp is not null
)
select json_build_object(
  'sessions', (select coalesce(json_agg(row_to_json(rows)), '[]') from (
    select bot_id as worker, min(property_label) as pool, max(bot_status) as status,
      extract(epoch from max(expiry_time)) as expires
    from bots join property_labels on property_labels.bot_name = bots.name group by bot_id) rows),
  'queues', (select coalesce(json_agg(row_to_json(rows)), '[]') from (
    select property_label as pool, count(*) as depth, extract(epoch from min(queued_timestamp)) as oldest
    from jobs where stage = 2 group by property_label) rows),
  'running', (select coalesce(json_agg(row_to_json(rows)), '[]') from (
    select worker, mnemonic, label, extract(epoch from began) as since from ran where stage = 3) rows),
  'work', (select coalesce(json_agg(row_to_json(rows)), '[]') from (
    select worker, min(pool) as pool, count(*) filter (where stage = 4 and mnemonic = 'TestRunner') as tests,
      count(*) filter (where stage = 4 and mnemonic <> 'TestRunner') as actions,
      coalesce(extract(epoch from sum(ended - began)), 0) as busy,
      coalesce(extract(epoch from sum(greatest(interval '0',
        ended - greatest(began, clock.utc - interval '{RECENT_SECONDS} s')))), 0) as recent
    from ran, clock group by worker) rows),
  'outcomes', (select coalesce(json_agg(row_to_json(rows)), '[]') from (
    select property_label as pool, count(*) as count,
      case when cancelled then 'cancelled' when coalesce(status_code, 0) = 0 then 'completed'
        else 'failed' end as outcome
    from jobs where stage = 4 group by property_label, outcome) rows)
)
"""


class StoreError(Exception):
    """The store does not answer."""


@dataclasses.dataclass(frozen=True)
class Session:
    """A worker that the scheduler hears.

    Attributes:
      worker: its name.
      pool: its pool.
      status: `BotStatus` of the Remote Workers API: 1 takes work, others do not.
      expires: until when it may be silent, in seconds since the epoch.
    """

    worker: str
    pool: str
    status: int
    expires: float


@dataclasses.dataclass(frozen=True)
class Queue:
    """The jobs that wait for a pool.

    Attributes:
      pool: its name.
      depth: how many wait.
      oldest: since when the first does, in seconds since the epoch.
    """

    pool: str
    depth: int
    oldest: float


@dataclasses.dataclass(frozen=True)
class Running:
    """A job that a worker runs.

    Attributes:
      worker: its name.
      mnemonic: of the action: TestRunner is a test.
      label: of the target.
      since: in seconds since the epoch.
    """

    worker: str
    mnemonic: str
    label: str
    since: float


@dataclasses.dataclass(frozen=True)
class Work:
    """What a worker did.

    Attributes:
      worker: its name.
      pool: its pool.
      tests: how many it ran to an end; one that writes no test.xml counts twice, for Bazel makes it by another action
        of this kind.
      actions: the same of other actions.
      busy: seconds that all of it took.
      recent: seconds of the last RECENT_SECONDS.
    """

    worker: str
    pool: str
    tests: int
    actions: int
    busy: float
    recent: float


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The jobs of a pool that ended in one way.

    Attributes:
      pool: its name.
      outcome: "completed" (a test that fails has run to its end, too), "cancelled", or "failed": the cluster could not
        run it, such as for want of a worker.
      count: how many.
    """

    pool: str
    outcome: str
    count: int


@dataclasses.dataclass(frozen=True)
class Jobs:
    """All that the store tells.

    Attributes:
      sessions: the workers that the scheduler hears.
      queues: those that are not empty.
      running: what runs.
      work: what each worker did, those that are gone too.
      outcomes: what is done.
    """

    sessions: tuple[Session, ...] = ()
    queues: tuple[Queue, ...] = ()
    running: tuple[Running, ...] = ()
    work: tuple[Work, ...] = ()
    outcomes: tuple[Outcome, ...] = ()


def parse(text: str) -> Jobs:
    """What PostgreSQL answers, as JSON."""
    told: dict[str, list[dict[str, Any]]] = json.loads(text)
    return Jobs(
        tuple(Session(**each) for each in told["sessions"]),
        tuple(Queue(**each) for each in told["queues"]),
        tuple(Running(**each) for each in told["running"]),
        tuple(Work(**each) for each in told["work"]),
        tuple(Outcome(**each) for each in told["outcomes"]),
    )


def read(psql: Path, sockets: Path) -> Jobs:
    """Asks the PostgreSQL whose socket is in the folder `sockets`.

    Args:
      psql: PostgreSQL's program.
      sockets: the folder.

    Raises:
      StoreError: it does not answer.
    """
    command = [str(psql), f"--host={sockets}", "--username=bgd", "--dbname=bgd", "-XAtq", "--set=ON_ERROR_STOP=1"]
    try:
        result = subprocess.run(
            [*command, f"--command={_QUESTION}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StoreError(f"PostgreSQL does not answer at {sockets}: {error}") from error
    if result.returncode:
        raise StoreError(f"PostgreSQL does not answer at {sockets}: {result.stderr.strip()}")
    return parse(result.stdout)
