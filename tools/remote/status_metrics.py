"""The status of a cluster as Prometheus reads it."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping

from tools.remote.status import ALIVE, DEGRADED, DOWN, HEALTHY, Status

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_WORKER_STATES = (*ALIVE, "starting", "leaving", "dead")
_OUTCOMES = ("completed", "failed", "cancelled")

_Sample = tuple[Mapping[str, str], float]


def render(status: Status) -> str:
    """The text: https://prometheus.io/docs/instrumenting/exposition_formats/, version 0.0.4."""
    states = collections.Counter((each.pool, each.state) for each in status.workers)
    outcomes = {(each.pool, each.outcome): each.count for each in status.outcomes}
    pools = [each.name for each in status.pools]
    workers = status.workers
    families = [
        _family(
            "health",
            "gauge",
            "Whether the cluster is in this state.",
            (({"state": state}, status.health == state) for state in (HEALTHY, DEGRADED, DOWN)),
        ),
        _family(
            "queue_depth",
            "gauge",
            "Jobs that wait for a worker.",
            (({"pool": each.name}, each.queued) for each in status.pools),
        ),
        _family(
            "queue_oldest_wait_seconds",
            "gauge",
            "How long the first of them waits.",
            (({"pool": each.name}, each.oldest_wait) for each in status.pools),
        ),
        _family(
            "workers",
            "gauge",
            "Workers in this state.",
            (({"pool": pool, "state": state}, states[pool, state]) for pool in pools for state in _WORKER_STATES),
        ),
        _family(
            "jobs_total",
            "counter",
            "Jobs that ended so; a failing test is completed, failed is what the cluster could not run.",
            (({"pool": pool, "outcome": end}, outcomes.get((pool, end), 0)) for pool in pools for end in _OUTCOMES),
        ),
        _family(
            "worker_busy_seconds_total",
            "counter",
            "Time in which the worker ran something.",
            (({"worker": each.name, "pool": each.pool}, each.busy_seconds) for each in workers),
        ),
        _family(
            "worker_tests_total",
            "counter",
            "Tests that the worker ran to an end.",
            (({"worker": each.name, "pool": each.pool}, each.tests) for each in workers),
        ),
        _family(
            "process_up",
            "gauge",
            "Whether the process runs.",
            (({"process": each.name}, each.state == "running") for each in status.processes),
        ),
        _family(
            "process_restarts_total",
            "counter",
            "Starts of the process that nobody asked for.",
            (({"process": each.name}, each.restarts.count) for each in status.processes),
        ),
        _family(
            "blob_bytes",
            "gauge",
            "Disk that blobs take.",
            [] if status.blob_bytes is None else [({}, status.blob_bytes)],
        ),
        _family("blob_quota_bytes", "gauge", "Disk that blobs may take.", [({}, _bytes(status.blob_quota))]),
    ]
    return "".join(families)


def _family(name: str, kind: str, help_text: str, samples: Iterable[_Sample]) -> str:
    lines = [f"# HELP trainyard_{name} {help_text}", f"# TYPE trainyard_{name} {kind}"]
    for labels, value in samples:
        inside = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
        lines.append(
            f"trainyard_{name}{{{inside}}} {float(value):.17g}" if inside else f"trainyard_{name} {float(value):.17g}"
        )
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _bytes(quota: str) -> int:
    """What "30G" says; BuildBox counts in thousands."""
    unit = "KMGT".find(quota[-1]) + 1
    factor: int = 1000**unit
    return int(quota.rstrip("KMGT")) * factor
