"""Bazel's profile, as --profile writes it: when each phase of a test began.

The events give durations alone. The profile has the times, but of remote phases only those above 50 ms.
"""

from __future__ import annotations

import datetime
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.remote.timeline.attempts import PHASES, Phase
from tools.remote.timeline.recorded import Record

_TEST = re.compile(r"Testing (?P<label>\S+)(?: \((?:shard (?P<shard>\d+) of \d+)?.*\))?$")
_LOCK = "action resource lock"
# Bazel 7.7's spans. A worker's `pre-fetch` and `fetch` follow each other.
_SPANS = {
    ("general information", "sandbox.createFileSystem"): "staged",
    ("general information", "subprocess.run"): "ran",
    ("general information", "sandbox.copyOutputs"): "uploaded",
    ("Remote execution upload time", "upload missing inputs"): "sent",
    ("Remote execution queuing time", "queue"): "queued",
    ("Remote execution setup", "pre-fetch"): "staged",
    ("Remote execution file fetching", "fetch"): "staged",
    ("Remote execution process wall time", "execute"): "ran",
    ("Remote execution upload time", "upload outputs"): "uploaded",
    ("remote output download", "download outputs"): "fetched",
}
_MICRO = 1e-6


def read(path: Path) -> list[Record]:
    """What ran for tests; a test that writes no test.xml has a second record.

    Raises:
      ValueError: the file is not a profile.
    """
    try:
        data = path.read_bytes()
        trace = json.loads(gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data)
        zero = datetime.datetime.fromisoformat(trace["otherData"]["date"]).timestamp()
        spans = [event for event in trace["traceEvents"] if event.get("ph") == "X"]
    except (ValueError, KeyError, TypeError, EOFError, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{path}: {error!r}; give the file that `bazel test --profile=FILE` wrote, after Bazel has ended"
        ) from error
    threads: dict[int, list[dict[str, Any]]] = {}
    for span in spans:
        threads.setdefault(span["tid"], []).append(span)
    records = []
    for span in spans:
        test = _TEST.match(span["name"]) if span["cat"] == "action processing" else None
        if test:
            begin, end = span["ts"], span["ts"] + span["dur"]
            within = [_phase(other, zero) for other in threads[span["tid"]] if begin <= other["ts"] <= end]
            for phases in _spawns(sorted((phase for phase in within if phase), key=lambda phase: phase.start)):
                if any(phase.name == "ran" for phase in phases):
                    records.append(Record(test["label"], phases, shard=int(test["shard"] or 0)))
    return records


def _phase(span: dict[str, Any], zero: float) -> Phase | None:
    name = "queued" if span["cat"] == _LOCK else _SPANS.get((span["cat"], span["name"]))
    return Phase(name, zero + span["ts"] * _MICRO, span["dur"] * _MICRO) if name else None


def _spawns(phases: list[Phase]) -> Iterator[tuple[Phase, ...]]:
    """The phases of each program that ran for one action: the order starts anew with each."""
    current: list[Phase] = []
    for phase in phases:
        again = current and phase.name == current[-1].name != "staged"
        if again or (current and PHASES.index(phase.name) < PHASES.index(current[-1].name)):
            yield tuple(current)
            current = []
        current.append(phase)
    if current:
        yield tuple(current)
