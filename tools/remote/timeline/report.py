"""The answer as tables, and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tools.remote.timeline import totals
from tools.remote.timeline.attempts import GREEN, PHASES, Attempt


def show(console: Console, attempts: Sequence[Attempt]) -> None:
    """Prints a row for each attempt, in the order given, and one for each pool."""
    console.print(_attempts(attempts))
    console.print(_totals(attempts))


def as_json(attempts: Sequence[Attempt], invocation: str) -> str:
    """The same for programs: seconds, times since 1970, null where nobody says."""
    answer = {
        "invocation": invocation,
        "attempts": [
            {**dataclasses.asdict(each), "seconds": {name: each.seconds(name) for name in PHASES}} for each in attempts
        ],
        "totals": [totals.as_mapping(each) for each in totals.totals(attempts)],
    }
    return json.dumps(answer, indent=1) + "\n"


def _attempts(attempts: Sequence[Attempt]) -> Table:
    table = Table(title="attempts by start; seconds", title_justify="left")
    for name in ("test", "pool", "ran on", "status"):
        table.add_column(name, overflow="fold")
    for name in ("start", *PHASES):
        table.add_column(name, justify="right", no_wrap=True)
    zero = min((each.start for each in attempts if not each.cached), default=0.0)
    for each in attempts:
        where = each.worker or each.place
        if each.tries is not None and each.tries > 1:
            where += f", try {each.tries}"
        table.add_row(
            Text(each.name),
            each.pool,
            Text(where),
            Text(each.status, style="" if each.status in GREEN else "red"),
            "-" if each.cached else f"{each.start - zero:.2f}",
            *(_number(each.seconds(name)) for name in PHASES),
        )
    return table


def _totals(attempts: Sequence[Attempt]) -> Table:
    table = Table(title="totals by pool; seconds", title_justify="left")
    for name in ("where", "pool"):
        table.add_column(name)
    for name in ("attempts", "failed", "workers seen", "busy", "span", "utilisation", "longest queue"):
        table.add_column(name, justify="right")
    table.add_column("whose", overflow="fold")
    for each in totals.totals(attempts):
        use = each.utilisation
        table.add_row(
            each.place,
            each.pool,
            str(each.attempts),
            str(each.failed),
            str(each.workers or "-"),
            _number(each.busy if each.workers else None),
            _number(each.span if each.workers else None),
            "-" if use is None else f"{use:.0%}",
            _number(each.longest_queue),
            Text(each.longest_queue_name),
        )
    return table


def _number(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.2f}"
