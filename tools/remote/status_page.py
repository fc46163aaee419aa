"""The status of a cluster as a page: all of it is in its HTML, it asks for nothing and needs no script."""

from __future__ import annotations

import time
from collections.abc import Iterable
from html import escape
from pathlib import Path
from string import Template

from tools.remote.job_store import RECENT_SECONDS
from tools.remote.status import PoolStatus, ProcessStatus, Status, WorkerStatus, describe_restarts, duration

# Read at each request: who runs this elsewhere needs it beside this file.
TEMPLATE = Path(__file__).with_name("status_page.html")
_NONE = '<span class="dim">-</span>'


def render(status: Status) -> str:
    """The HTML."""
    warnings = "\n".join(f"<li>{escape(each)}</li>" for each in status.warnings)
    return Template(TEMPLATE.read_text()).substitute(
        title=f"Trainyard: {status.health}",
        health=status.health,
        address=escape(status.address),
        at=time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(status.at)),
        warnings=f'<ul class="warnings" id="warnings">\n{warnings}\n</ul>' if warnings else "",
        window=duration(RECENT_SECONDS),
        pools="\n".join(_pool(each, status) for each in status.pools),
        workers="\n".join(_worker(each, status) for each in status.workers),
        processes="\n".join(_process(each, status) for each in status.processes),
        blobs=escape(blobs(status)),
    )


def blobs(status: Status) -> str:
    """The disk that they take: "1.2 GB of 30G"."""
    if status.blob_bytes is None:
        return f"an unknown part of {status.blob_quota}"
    return f"{status.blob_bytes / 1e9:.2f} GB of {status.blob_quota}"


def _pool(pool: PoolStatus, status: Status) -> str:
    done = ", ".join(f"{each.count} {each.outcome}" for each in status.outcomes if each.pool == pool.name)
    return _row(
        (escape(pool.name), ""),
        (f"{pool.alive} of {pool.workers}" if pool.workers else _NONE, "number"),
        (str(pool.busy) if pool.workers else _NONE, "number"),
        (str(pool.queued) if pool.queued else _NONE, "number"),
        (duration(pool.oldest_wait) if pool.queued else _NONE, ""),
        (escape(done) or _NONE, ""),
    )


def _worker(worker: WorkerStatus, status: Status) -> str:
    state = escape(worker.state)
    if worker.since is not None and not worker.running:
        state += f" since {duration(status.at - worker.since)}"
    running = _NONE
    if worker.running:
        what = "" if worker.running.mnemonic == "TestRunner" else f" ({escape(worker.running.mnemonic)})"
        running = f"{escape(worker.running.label)}{what} since {duration(status.at - worker.running.since)}"
    used = round(100 * worker.utilisation)
    return _row(
        (escape(worker.name), ""),
        (", ".join(map(str, worker.devices)) or _NONE, ""),
        (state, worker.state),
        (running, "label"),
        (f'<meter value="{used}" max="100">{used} %</meter> {used} %', ""),
        (str(worker.tests), "number"),
        (str(worker.actions), "number"),
    )


def _process(process: ProcessStatus, status: Status) -> str:
    return _row(
        (escape(process.name), ""),
        (escape(process.state), process.state),
        (duration(status.at - process.since), ""),
        (escape(describe_restarts(process.restarts, status.at)) or _NONE, ""),
    )


def _row(*cells: tuple[str, str]) -> str:
    return f"<tr>{''.join(_cells(cells))}</tr>"


def _cells(cells: Iterable[tuple[str, str]]) -> Iterable[str]:
    for text, kind in cells:
        yield f'<td class="{escape(kind)}">{text}</td>' if kind else f"<td>{text}</td>"
