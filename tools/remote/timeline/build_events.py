"""Bazel's build events, as --build_event_json_file writes them: which attempts there were."""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

from tools.remote.pools import POOLS
from tools.remote.timeline.attempts import Attempt, Phase, Place

# What of Bazel's `timingBreakdown` each phase is. `networkTime` is that of the look-up in the cache, of inputs and of
# outputs; most of it comes before the queue.
_PARTS = (
    ("sent", ("parseTime", "networkTime", "uploadTime")),
    ("queued", ("queueTime",)),
    ("staged", ("setupTime",)),
    ("ran", ("executionWallTime",)),
    ("uploaded", ("processOutputsTime",)),
    ("fetched", ("fetchTime",)),
)


def read(path: Path) -> tuple[list[Attempt], str]:
    """The attempts, and the invocation's id ("" if it is not there).

    Raises:
      ValueError: the file is not of build events, or there is no test in it.
    """
    events: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            events.append(json.loads(line))
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number}: {error}; give the file that `bazel test --build_event_json_file=FILE` "
                "wrote, after Bazel has ended"
            ) from error
    pools: dict[str, str] = {}
    invocation = ""
    attempts = []
    for event in events:
        name = event.get("id", {})
        if "started" in event:
            invocation = event["started"].get("uuid", "")
        elif "configured" in event and "targetConfigured" in name:
            pools[_label(name["targetConfigured"]["label"])] = _pool(event["configured"].get("tag", []))
        elif "testResult" in event and "testResult" in name:
            attempts.append(_attempt(name["testResult"], event["testResult"], pools))
    if not attempts:
        raise ValueError(f"{path}: no test in it ({len(events)} events); give the events of `bazel test`")
    sharded = {each.label for each in attempts if each.shard > 1}
    return [each if each.label in sharded else dataclasses.replace(each, shard=0) for each in attempts], invocation


def _attempt(name: dict[str, Any], result: dict[str, Any], pools: dict[str, str]) -> Attempt:
    info = result.get("executionInfo", {})
    label = _label(name["label"])
    place = _place(result, info)
    start = _time(result.get("testAttemptStart", "1970-01-01T00:00:00Z"))
    return Attempt(
        label=label,
        shard=name.get("shard", 1),
        run=name.get("run", 1),
        attempt=name.get("attempt", 1),
        status=result.get("status", "NO_STATUS"),
        place=place,
        # (Bazel 7.7.1 knows the worker and leaves it out; later ones name it)
        worker=info.get("hostname", "") if place == "remote" else "",
        pool=pools.get(label, POOLS[0]),
        start=start,
        phases=_phases(start, result, info) if place in ("remote", "local") else (),
    )


def _place(result: dict[str, Any], info: dict[str, Any]) -> Place:
    if result.get("cachedLocally"):
        return "bazel's cache"
    strategy = info.get("strategy", "")
    if info.get("cachedRemotely"):
        return "disk cache" if "disk" in strategy else "remote cache"
    return "remote" if strategy == "remote" else "local"


def _phases(start: float, result: dict[str, Any], info: dict[str, Any]) -> tuple[Phase, ...]:
    """The phases one after the other: Bazel gives durations alone, and of a local test that of the run alone."""
    parts = {part["name"]: part.get("time", "0s") for part in info.get("timingBreakdown", {}).get("child", [])}
    if not parts:
        return (Phase("ran", start, _seconds(result.get("testAttemptDuration", "0s"))),)
    phases = []
    for name, of in _PARTS:
        seconds = sum(_seconds(parts.get(part, "0s")) for part in of)
        if seconds or name == "ran" or info.get("strategy") == "remote":
            phases.append(Phase(name, start, seconds))
            start += seconds
    return tuple(phases)


def _pool(tags: list[str]) -> str:
    """The pool of a test with these tags; the first pool takes what names none."""
    return next((pool for pool in ("multi-gpu", "gpu", "trainium") if pool in tags), POOLS[0])


def _label(label: str) -> str:
    return "//" + label.lstrip("@").removeprefix("//") if label.lstrip("@").startswith("//") else label


def _seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


def _time(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()
