"""The status of a cluster for a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tools.remote.job_store import RECENT_SECONDS
from tools.remote.status import DEGRADED, DOWN, HEALTHY, Status, WorkerStatus, describe_restarts, duration
from tools.remote.status_page import blobs

_COLOURS = {
    HEALTHY: "green",
    DEGRADED: "yellow",
    DOWN: "red",
    "idle": "green",
    "joined": "green",
    "running": "green",
    "busy": "blue",
}
_NONE = "[dim]-[/dim]"


def show(status: Status, console: Console) -> None:
    """Prints it."""
    colour = _COLOURS[status.health]
    console.print(f"[bold {colour}]{status.health}[/] [dim]{status.address}, blobs take {blobs(status)}[/dim]")
    for warning in status.warnings:
        console.print(f"[yellow]! {escape(warning)}[/]", soft_wrap=True)
    for table in (_pools(status), _workers(status), _processes(status)):
        if table.row_count:
            console.print()
            console.print(table)


def _pools(status: Status) -> Table:
    table = _table("pool", "alive", "busy", "waiting", "longest wait", "jobs done")
    for pool in status.pools:
        done = ", ".join(f"{each.count} {each.outcome}" for each in status.outcomes if each.pool == pool.name)
        table.add_row(
            pool.name,
            f"{pool.alive} of {pool.workers}" if pool.workers else _NONE,
            str(pool.busy) if pool.workers else _NONE,
            str(pool.queued) if pool.queued else _NONE,
            duration(pool.oldest_wait) if pool.queued else _NONE,
            done or _NONE,
        )
    return table


def _workers(status: Status) -> Table:
    table = _table("worker", "devices", "state", f"last {duration(RECENT_SECONDS)}", "tests", "actions", "runs")
    for worker in status.workers:
        table.add_row(
            escape(worker.name),
            ",".join(map(str, worker.devices)) or _NONE,
            _coloured(worker.state, _since(worker, status.at)),
            f"{worker.utilisation:.0%}",
            str(worker.tests),
            str(worker.actions),
            _running(worker),
        )
    return table


def _processes(status: Status) -> Table:
    table = _table("process", "state", "since", "restarts")
    for process in status.processes:
        table.add_row(
            escape(process.name),
            _coloured(process.state, ""),
            duration(status.at - process.since),
            escape(describe_restarts(process.restarts, status.at)) or _NONE,
        )
    return table


def _running(worker: WorkerStatus) -> str:
    if worker.running is None:
        return _NONE
    what = "" if worker.running.mnemonic == "TestRunner" else f" ({worker.running.mnemonic})"
    return escape(worker.running.label + what)


def _since(worker: WorkerStatus, at: float) -> str:
    return "" if worker.since is None else f" since {duration(at - worker.since)}"


def _coloured(state: str, more: str) -> str:
    return f"[{_COLOURS.get(state, 'red')}]{escape(state)}{more}[/]"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
