"""A cluster for tests: two workers for cpu, one of which runs a test, and one for gpu."""

from __future__ import annotations

from typing import Any

from tools.remote.cluster_logs import Restarts
from tools.remote.job_store import Jobs, Outcome, Queue, Running, Session, Work
from tools.remote.settings import Settings
from tools.remote.status import Facts

AT = 1_800_000_000.0
WANTED = Settings(queue_seconds=900).with_worker("cpu").with_worker("cpu").with_worker("gpu", (0,))
JOBS = Jobs(
    sessions=tuple(Session(name, name[:-2], 1, AT + 28) for name in ("cpu-1", "cpu-2", "gpu-1")),
    queues=(Queue("cpu", 3, AT - 40),),
    running=(Running("cpu-1", "TestRunner", "//trainers/data:packing_test", AT - 12),),
    work=(Work("cpu-1", "cpu", 7, 2, 90.5, 60.0), Work("cpu-2", "cpu", 4, 0, 20.0, 0.0)),
    outcomes=(Outcome("cpu", "completed", 13), Outcome("cpu", "failed", 1)),
)


def process(name: str, state: str = "RUNNING") -> dict[str, Any]:
    """What supervisor says of one that started ten minutes ago."""
    return {"name": name, "statename": state, "start": AT - 600, "stop": AT - 5 if state != "RUNNING" else 0}


PROCESSES = [
    process(name) for name in ("casd", "postgres", "scheduler", "worker-cpu-1", "worker-cpu-2", "worker-gpu-1")
]


def facts(**changes: Any) -> Facts:
    """Those of a healthy cluster, or with some fields changed."""
    whole: dict[str, Any] = {
        "at": AT,
        "processes": PROCESSES,
        "restarts": {"casd": Restarts(2, AT - 120, "terminated by SIGKILL; not expected")},
        "silent": {},
        "jobs": JOBS,
        "answers": True,
        "blob_bytes": 1_234_000_000,
    }
    return Facts(**{**whole, **changes})
