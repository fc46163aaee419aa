"""What the logs of a cluster tell: which processes were started again, which workers fell silent."""

from __future__ import annotations

import dataclasses
import datetime
import os
import re
from pathlib import Path

# The supervisor's words; its times are the machine's local ones.
_STARTED = re.compile(r"^\S+ \S+ \w+ supervisord started ")
_EVENT = re.compile(r"^(\S+ \S+),\d+ \w+ (spawned|exited): '?([\w-]+)'?(?: \((.*)\))?")
# BuildGrid's, in UTC.
_EXPIRED = re.compile(r'BotSession has expired\. bot_id="([^"]*)" deadline="([^"]*)"')
# A log keeps at most some of these; what is older is of no interest.
_TAIL_BYTES = 8 * 2**20


@dataclasses.dataclass(frozen=True)
class Restarts:
    """The starts of a process that nobody asked for.

    Attributes:
      count: how many since the supervisor started.
      last: when the last was, in seconds since the epoch; 0 where there was none.
      why: how the process had ended, such as "terminated by SIGKILL; not expected".
    """

    count: int = 0
    last: float = 0.0
    why: str = ""


def restarts(log: str) -> dict[str, Restarts]:
    """The restarts of each process that ended by itself, from the supervisor's log."""
    found: dict[str, Restarts] = {}
    ended: dict[str, str] = {}
    for line in log.splitlines():
        if _STARTED.match(line):
            found.clear()
            ended.clear()
            continue
        parsed = _EVENT.match(line)
        if parsed is None:
            continue
        when, event, name, why = parsed.groups()
        if event == "exited":
            ended[name] = why or ""
        elif event == "spawned" and name in ended:
            at = datetime.datetime.strptime(when, "%Y-%m-%d %H:%M:%S").timestamp()
            found[name] = Restarts(found.get(name, Restarts()).count + 1, at, ended.pop(name))
    return found


def silent_workers(log: str, patience: float) -> dict[str, float]:
    """The workers that the scheduler gave up, from its log.

    Args:
      log: of the scheduler.
      patience: seconds of silence after which it gives a worker up.

    Returns:
      For each when it was heard last, in seconds since the epoch.
    """
    found = {}
    for name, deadline in _EXPIRED.findall(log):
        at = datetime.datetime.fromisoformat(deadline).replace(tzinfo=datetime.UTC)
        found[name] = at.timestamp() - patience
    return found


def tail(file: Path) -> str:
    """The end of a log; "" where there is none."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _TAIL_BYTES))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""
