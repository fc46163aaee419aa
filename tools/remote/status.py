"""How a cluster is: its pools, workers and processes, and what is wrong."""

from __future__ import annotations

import dataclasses
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.remote import blobs, cluster_logs, job_store, settings
from tools.remote.cluster_logs import Restarts
from tools.remote.job_store import RECENT_SECONDS, Jobs, Outcome, Running, Session, StoreError, Work
from tools.remote.places import Places
from tools.remote.pools import POOLS
from tools.remote.settings import Settings
from tools.remote.supervisor import Supervisor, SupervisorError

HEALTHY, DEGRADED, DOWN = "healthy", "degraded", "down"
# What `status` exits with.
EXIT_CODES = {HEALTHY: 0, DEGRADED: 1, DOWN: 2}
# Those that take tests, now or next.
ALIVE = ("idle", "busy", "joined")
# So long is a restart worth a warning.
_FRESH_SECONDS = 60
# So long is a worker of another host named after it is gone.
_REMEMBER_SECONDS = 3600


@dataclasses.dataclass(frozen=True)
class ProcessStatus:
    """A process of the cluster.

    Attributes:
      name: such as casd.
      state: supervisor's word for it, in lower case: "running" is the good one.
      since: of this state, in seconds since the epoch.
      restarts: those that nobody asked for, since the supervisor started.
    """

    name: str
    state: str
    since: float
    restarts: Restarts


@dataclasses.dataclass(frozen=True)
class WorkerStatus:
    """A worker.

    Attributes:
      name: such as gpu-1.
      pool: its pool.
      devices: ids of those that are its own.
      state: "idle", "busy", "starting", "leaving" (takes no more work), "dead", or "joined" (works for the scheduler
        of another host, which knows more).
      since: of this state, in seconds since the epoch; None where nobody knows.
      running: what it runs.
      tests: how many it ran to an end.
      actions: the same of other actions.
      busy_seconds: how long all of it took.
      utilisation: part of the last RECENT_SECONDS in which it ran something, 0 to 1.
    """

    name: str
    pool: str
    devices: tuple[int, ...]
    state: str
    since: float | None
    running: Running | None
    tests: int
    actions: int
    busy_seconds: float
    utilisation: float


@dataclasses.dataclass(frozen=True)
class PoolStatus:
    """A pool.

    Attributes:
      name: such as gpu.
      workers: how many it should have, with those that came from other hosts.
      alive: how many take tests.
      busy: how many of them run one.
      queued: jobs that wait.
      oldest_wait: seconds that the first of them waits; 0 where none does.
    """

    name: str
    workers: int
    alive: int
    busy: int
    queued: int
    oldest_wait: float


@dataclasses.dataclass(frozen=True)
class Status:
    """A cluster, at one moment.

    Attributes:
      at: when, in seconds since the epoch.
      address: URL of the scheduler.
      health: HEALTHY, DEGRADED or DOWN.
      warnings: why it is not healthy.
      queue_seconds: after how long a test fails whose pool has no worker.
      pools: all that there are.
      workers: those that it should have, and those that came from other hosts.
      processes: those of this machine.
      outcomes: jobs that are done, by pool.
      blob_bytes: disk that the blobs take; None where it is not known.
      blob_quota: bytes that they may take, such as "30G".
    """

    at: float
    address: str
    health: str
    warnings: tuple[str, ...]
    queue_seconds: int
    pools: tuple[PoolStatus, ...]
    workers: tuple[WorkerStatus, ...]
    processes: tuple[ProcessStatus, ...]
    outcomes: tuple[Outcome, ...]
    blob_bytes: int | None
    blob_quota: str


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a status is made of.

    Attributes:
      at: when they were read, in seconds since the epoch.
      processes: as supervisor says; None where it is not there.
      restarts: of each process.
      silent: when a worker that the scheduler gave up was heard last.
      jobs: what the store tells; None where it does not answer.
      answers: whether the scheduler accepts connections.
      blob_bytes: as in `Status`.
      store_error: why the store does not answer.
      disk_free: bytes that are free on the disk of the blobs; None where it is not known.
    """

    at: float
    processes: Sequence[Mapping[str, Any]] | None
    restarts: Mapping[str, Restarts]
    silent: Mapping[str, float]
    jobs: Jobs | None
    answers: bool
    blob_bytes: int | None = None
    store_error: str = ""
    disk_free: int | None = None


def read(places: Places, psql: Path) -> Status:
    """The cluster at `places`.

    Args:
      places: where it keeps what it writes.
      psql: PostgreSQL's program.

    Raises:
      ValueError: it was never brought up, or its settings are not ours.
    """
    wanted = settings.load(places.settings)
    if wanted is None:
        raise ValueError(f"no cluster in {places.home}: bring one up first (`up --pool cpu=2`)")
    try:
        processes = Supervisor(places.supervisor_socket).processes()
    except SupervisorError:
        return assemble(wanted, Facts(time.time(), None, {}, {}, None, False, blobs.disk_usage(places)))
    jobs, answers, store_error = None, False, ""
    if not wanted.scheduler:
        answers = _accepts(wanted.host, wanted.port)
        try:
            jobs = job_store.read(psql, places.run)
        except StoreError as error:
            store_error = str(error)
    facts = Facts(
        time.time(),
        processes,
        cluster_logs.restarts(cluster_logs.tail(places.log / "supervisor.log")),
        cluster_logs.silent_workers(cluster_logs.tail(places.log / "scheduler.log"), wanted.silence_seconds),
        jobs,
        answers,
        blobs.disk_usage(places),
        store_error,
        blobs.disk_free(places),
    )
    return assemble(wanted, facts)


def assemble(wanted: Settings, facts: Facts) -> Status:
    """The status of the cluster that should be as wanted."""
    processes = tuple(
        _process(each, facts) for each in sorted(facts.processes or (), key=lambda each: str(each["name"]))
    )
    workers = tuple(_workers(wanted, facts))
    pools = tuple(_pools(wanted, facts, workers))
    if facts.processes is None:
        down = "the cluster is down: bring it up (`up`)"
    elif wanted.scheduler:
        down = ""
    elif facts.jobs is None:
        down = facts.store_error or "PostgreSQL does not answer"
    elif not facts.answers:
        down = f"the scheduler does not answer at {wanted.address}: see `logs scheduler`"
    else:
        down = ""
    warnings = [down] if down else []
    if facts.processes is not None:
        warnings += _warnings(wanted, facts, pools, workers, processes)
    return Status(
        at=facts.at,
        address=wanted.scheduler or wanted.url,
        health=DOWN if down else DEGRADED if warnings else HEALTHY,
        warnings=tuple(warnings),
        queue_seconds=wanted.queue_seconds,
        pools=pools,
        workers=workers,
        processes=processes,
        outcomes=facts.jobs.outcomes if facts.jobs else (),
        blob_bytes=facts.blob_bytes,
        blob_quota=wanted.quota,
    )


def describe_restarts(restarts: Restarts, at: float) -> str:
    """What they were: "restarted 2 times, last 12 s ago (terminated by SIGKILL)"; "" where there was none."""
    if not restarts.count:
        return ""
    times = "once" if restarts.count == 1 else f"{restarts.count} times"
    why = restarts.why.partition(";")[0]
    return f"restarted {times}, last {duration(at - restarts.last)} ago ({why})"


def duration(seconds: float) -> str:
    """How a person says it: 12 s, 3 min, 2 h 5 min, 4 days."""
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole} s"
    minutes, hours = whole // 60, whole // 3600
    if hours < 2:
        return f"{minutes} min"
    if hours < 48:
        return f"{hours} h {minutes % 60} min"
    return f"{hours // 24} days"


def _process(told: Mapping[str, Any], facts: Facts) -> ProcessStatus:
    state = str(told["statename"]).lower()
    since = float(told["start"] if state in ("starting", "running") else told["stop"])
    return ProcessStatus(str(told["name"]), state, since, facts.restarts.get(str(told["name"]), Restarts()))


def _workers(wanted: Settings, facts: Facts) -> Iterable[WorkerStatus]:
    """Those of this machine, then those of others, also those that left without a word."""
    jobs = facts.jobs or Jobs()
    sessions = {each.worker: each for each in jobs.sessions}
    work = {each.worker: each for each in jobs.work}
    processes = {str(each["name"]): each for each in facts.processes or ()}
    own = {each.name: (each.pool, each.devices) for each in wanted.all_workers()}
    gone = {
        name: (work[name].pool if name in work else "", ())
        for name, heard in facts.silent.items()
        if facts.at - heard < _REMEMBER_SECONDS
    }
    others = {**gone, **{each.worker: (each.pool, ()) for each in jobs.sessions}}
    for name, (pool, devices) in own.items():
        process, session = processes.get(f"worker-{name}", {}), sessions.get(name)
        yield _worker(name, pool, devices, process, session, work.get(name), facts, wanted)
    for name, (pool, _) in sorted(others.items()):
        # (a worker that was drained is silent, too: its name has no @HOST)
        if name not in own and (name in sessions or "@" in name):
            yield _worker(name, pool, (), None, sessions.get(name), work.get(name), facts, wanted)


def _worker(
    name: str,
    pool: str,
    devices: tuple[int, ...],
    process: Mapping[str, Any] | None,
    session: Session | None,
    work: Work | None,
    facts: Facts,
    wanted: Settings,
) -> WorkerStatus:
    """One of them; `process` is supervisor's word: {} says that it has none, None that it is of another host."""
    running = next((each for each in facts.jobs.running if each.worker == name), None) if facts.jobs else None
    state, since = _state(name, process, session, running, facts, wanted)
    done = work or Work(name, pool, 0, 0, 0.0, 0.0)
    return WorkerStatus(
        name,
        pool,
        devices,
        state,
        since,
        running,
        done.tests,
        done.actions,
        done.busy,
        min(1.0, done.recent / RECENT_SECONDS),
    )


def _state(
    name: str,
    process: Mapping[str, Any] | None,
    session: Session | None,
    running: Running | None,
    facts: Facts,
    wanted: Settings,
) -> tuple[str, float | None]:
    """The state of a worker, and since when."""
    runs = process is None or process.get("statename") in ("RUNNING", "STARTING")
    if process is not None and not runs:
        return "dead", float(process["stop"]) if process.get("stop") else None
    if process is not None and wanted.scheduler:
        return "joined", float(process["start"])
    if session is None or session.expires < facts.at:
        started = float(process["start"]) if process else 0.0
        # (each start makes a new session: what was heard before it is of the last one)
        if facts.jobs is not None and facts.at - started < wanted.silence_seconds:
            return "starting", started
        return "dead", max(facts.silent.get(name, 0.0), started) or None
    if session.status != 1:
        return "leaving", None
    return ("busy", running.since) if running else ("idle", None)


def _pools(wanted: Settings, facts: Facts, workers: Sequence[WorkerStatus]) -> Iterable[PoolStatus]:
    queues = {each.pool: each for each in facts.jobs.queues} if facts.jobs else {}
    for name in (*POOLS, *sorted(queues.keys() - set(POOLS))):
        own = [each for each in workers if each.pool == name]
        queue = queues.get(name)
        yield PoolStatus(
            name,
            len(own),
            sum(each.state in ALIVE for each in own),
            sum(each.state == "busy" for each in own),
            queue.depth if queue else 0,
            max(0.0, facts.at - queue.oldest) if queue else 0.0,
        )


def _warnings(
    wanted: Settings,
    facts: Facts,
    pools: Iterable[PoolStatus],
    workers: Iterable[WorkerStatus],
    processes: Iterable[ProcessStatus],
) -> Iterable[str]:
    for pool in pools:
        if not pool.alive and (pool.workers or pool.queued):
            waiting = f" ({pool.queued} wait, the first for {duration(pool.oldest_wait)})" if pool.queued else ""
            yield f"pool {pool.name}: no live worker: tests for it fail after {wanted.queue_seconds} s{waiting}"
    for worker in workers:
        if worker.state == "dead":
            since = f" since {duration(facts.at - worker.since)}" if worker.since else ""
            yield f"worker {worker.name} is {worker.state}{since}"
    if facts.disk_free is not None and facts.disk_free < blobs.RESERVED_BYTES:
        yield (
            f"the disk of the blobs has {facts.disk_free / 1e9:.1f} GB free: below "
            f"{blobs.RESERVED_BYTES / 1e9:.0f} GB no more are taken, and tests fail; free some"
        )
    for process in processes:
        if process.state != "running":
            yield f"{process.name} is {process.state}: see `logs {process.name}`"
        elif facts.at - process.restarts.last < _FRESH_SECONDS:
            yield f"{process.name}: {describe_restarts(process.restarts, facts.at)}"


def _accepts(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0
