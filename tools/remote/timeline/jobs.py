"""The scheduler's own record of what it handed to workers, from the database of a cluster of this machine."""

from __future__ import annotations

import datetime
import json
import subprocess
from pathlib import Path
from typing import Any

from tools.remote.timeline.attempts import Phase
from tools.remote.timeline.recorded import Record

# BuildGrid's tables; its times are UTC without saying so.
_QUERY = """
select coalesce(json_agg(found), '[]') from (
  select distinct on (jobs.name) jobs.property_label, jobs.worker_name, jobs.n_tries, request_metadata.target_id,
    queued_timestamp, worker_start_timestamp, execution_start_timestamp, execution_completed_timestamp,
    output_upload_start_timestamp, output_upload_completed_timestamp
  from jobs join operations on operations.job_name = jobs.name
    join request_metadata on request_metadata.id = operations.request_metadata_id
  where request_metadata.invocation_id = :'invocation' and execution_completed_timestamp is not null
) as found
"""
_PHASES = (
    ("queued", "queued_timestamp", "worker_start_timestamp"),
    ("staged", "worker_start_timestamp", "execution_start_timestamp"),
    ("ran", "execution_start_timestamp", "execution_completed_timestamp"),
    ("uploaded", "output_upload_start_timestamp", "output_upload_completed_timestamp"),
)


def read(psql: Path, socket_folder: Path, invocation: str) -> list[Record]:
    """What ran for one invocation of Bazel.

    Args:
      psql: PostgreSQL's client.
      socket_folder: where the database listens.
      invocation: Bazel's id of it.

    Raises:
      ValueError: the database does not answer.
    """
    command = [str(psql), "-h", str(socket_folder), "-U", "bgd", "-d", "bgd", "-AtqX", "-v", f"invocation={invocation}"]
    result = subprocess.run(command, input=_QUERY, capture_output=True, text=True, check=False)
    if result.returncode:
        raise ValueError(
            f"the scheduler's database in {socket_folder} does not answer: {result.stderr.strip()}; bring the cluster "
            "up, or leave out --cluster"
        )
    return parse(json.loads(result.stdout))


def parse(rows: list[dict[str, Any]]) -> list[Record]:
    """The records in the answer of the database."""
    return [
        Record(
            label=row["target_id"],
            phases=_phases(row),
            worker=row["worker_name"],
            pool=row["property_label"],
            tries=row["n_tries"],
        )
        for row in rows
    ]


def _phases(row: dict[str, Any]) -> tuple[Phase, ...]:
    found = []
    for name, begin, end in _PHASES:
        if row[begin] and row[end]:
            start = _time(row[begin])
            found.append(Phase(name, start, max(_time(row[end]) - start, 0.0)))
    return tuple(found)


def _time(text: str) -> float:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC).timestamp()
