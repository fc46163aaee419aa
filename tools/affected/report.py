"""A selection in words: a table for people; labels, JSON and a CI matrix for machines.

What is the same is said the same: nothing depends on the machine, the folder, the time or what was cached.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tools.affected.explain import Explanation
from tools.affected.filters import Split
from tools.affected.selection import HARDWARE, TIERS, Affected, Selection, Side, Test
from tools.affected.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

VERSION = 1  # of the JSON; a field is added without a new one


def labels(split: Split) -> str:
    """The tests to run, one label a line."""
    return "".join(f"{each.test.label}\n" for each in split.kept)


def as_json(selection: Selection, split: Split) -> str:
    """All of it; docs/affected.md has the fields."""
    content = {
        "version": VERSION,
        "base": _side(selection.base),
        "head": _side(selection.head),
        "everything": selection.everything,
        "affected": [_entry(each, split) for each in split.kept],
        "filtered_out": [_entry(each, split) for each in split.filtered_out],
        "unaffected": sorted(test.label for test in selection.unaffected),
        "deleted": sorted(selection.deleted),
        "elsewhere": sorted(selection.elsewhere),
    }
    return json.dumps(content, indent=2) + "\n"


def matrix(split: Split, settings: Settings) -> str:
    """The tests to run as a matrix of CI jobs, in one line: an entry per tier and worker pool.

    Tests of one pool that need different numbers of devices share an entry, with the flags of the smallest host that
    has enough for all: a larger host also runs what smaller ones do, and each job costs a set-up.
    """
    groups: dict[tuple[str, str, str], list[Test]] = defaultdict(list)
    for each in split.kept:
        test = each.test
        groups[test.tier, test.pool or test.hardware or test.configuration, test.configuration].append(test)
    names = Counter(_job_name(tier, pool) for tier, pool, _ in groups)
    include = []
    for (tier, pool, configuration), tests in sorted(groups.items(), key=lambda item: (_rank(item[0][0]), item[0])):
        name = _job_name(tier, pool)
        include.append(
            {
                "name": name if names[name] == 1 else _job_name(tier, pool, configuration),
                "tier": tier,
                "hardware": tests[0].hardware,
                "pool": pool,
                "configuration": configuration,
                "flags": list(settings.flags_for_all(tests)),
                "labels": [test.label for test in tests],
            }
        )
    return json.dumps({"include": include}, separators=(",", ":")) + "\n"


def loud(selection: Selection) -> str | None:
    """What has to be said whatever the output: that the answer is not exact."""
    if selection.everything is None:
        return None
    return f"EVERYTHING is taken, all {len(selection.affected)} tests of head: {selection.everything}"


def summary(selection: Selection, split: Split) -> str:
    """The answer in a sentence."""
    held = [
        f"{count} {what}"
        for count, what in (
            (len(selection.unaffected), "unaffected"),
            (len(selection.deleted), "deleted"),
            (len(selection.elsewhere), "elsewhere"),
        )
        if count
    ]
    total = len(split.kept) + len(split.filtered_out)
    if not total:
        said = ["nothing is affected", *held]
    elif not split.kept:
        said = [f"nothing to run: {total} affected, but filtered out", *held]
    else:
        said = [f"{total} affected: {len(split.kept)} to run, {len(split.filtered_out)} filtered out", *held]
    return "; ".join(said)


def show(console: Console, selection: Selection, split: Split) -> None:
    """Prints the answer for people."""
    from rich.panel import Panel
    from rich.text import Text

    banner = loud(selection)
    if banner is not None:
        console.print(Panel(Text(banner, "bold"), style="white on red"))
    if split.kept:
        console.print(_table(split))
    if split.kept or split.filtered_out:
        console.print(_counts(split))
    for title, found in (
        ("deleted", selection.deleted),
        ("elsewhere (compatible with no configuration that was asked about)", selection.elsewhere),
    ):
        if found:
            console.print(Text(f"{title}: {len(found)}", "bold"))
            console.print(Text("\n".join(f"  {label}" for label in sorted(found))), soft_wrap=True)
    console.print(Text(summary(selection, split), "bold"), soft_wrap=True)
    console.print(Text(f"base: {_short(selection.base)}; head: {_short(selection.head)}"), soft_wrap=True)


def explanation(found: Explanation) -> str:
    """Why a test is affected or not, for people."""
    lines = [f"{found.label}: {found.verdict}", *(f"  {sentence}" for sentence in found.because)]
    if found.path:
        lines += ["from the change to the test:", *(f"  {label}" for label in found.path)]
    if found.difference:
        lines += [f"how {found.path[0] if found.path else found.label} changed:"]
        lines += [f"  {line}" for line in found.difference.splitlines()]
    return "\n".join(lines) + "\n"


def explanation_as_json(found: Explanation) -> str:
    """The same for machines."""
    return json.dumps({"version": VERSION, **dataclasses.asdict(found)}, indent=2) + "\n"


def _table(split: Split) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    heads = ["to run", "tier", "hardware", *(["distance"] if split.distance is not None else []), "why"]
    table = Table(*heads, box=box.SIMPLE_HEAD, pad_edge=False)
    table.columns[0].overflow = "fold"
    table.columns[-1].overflow = "fold"
    for each in split.kept:
        cells = [each.test.label, each.test.tier or "-", each.test.hardware or "-"]
        if split.distance is not None:
            cells.append(str(split.distance.get(each.test.label, "?")))
        table.add_row(*(Text(cell) for cell in (*cells, _why(each))))
    return table


def _counts(split: Split) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    every = [each.test for each in (*split.kept, *split.filtered_out)]
    columns = [name for name in (*HARDWARE, "") if any(test.hardware == name for test in every)]
    table = Table("", "tier", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column or "-", justify="right")
    for title, part in (("to run", split.kept), ("filtered out", split.filtered_out)):
        counts = Counter((each.test.tier, each.test.hardware) for each in part)
        for tier in sorted({tier for tier, _ in counts}, key=_rank):
            row = [title, tier or "-", *(str(counts[tier, column] or "") for column in columns)]
            table.add_row(*(Text(cell) for cell in row))
            title = ""
    return table


def _why(each: Affected) -> str:
    first, *more = each.changes or ("",)
    return each.why + (f": {first}" if first else "") + (f" (+{len(more)})" if more else "")


def _short(side: Side) -> str:
    return f"{side.name} ({side.tree[:12]})"


def _side(side: Side) -> dict[str, str]:
    return {"name": side.name, "tree": side.tree}  # (`cached` is the machine's own affair)


def _entry(each: Affected, split: Split) -> dict[str, Any]:
    entry = {
        "label": each.test.label,
        "tier": each.test.tier,
        "hardware": each.test.hardware,
        "configuration": each.test.configuration,
        "pool": each.test.pool,
        "tags": sorted(each.test.tags),
        "why": each.why,
        "changes": list(each.changes),
    }
    return entry if split.distance is None else {**entry, "distance": split.distance.get(each.test.label)}


def _job_name(tier: str, *parts: str) -> str:
    return "-".join(re.sub(r"[^A-Za-z0-9_]+", "-", part).strip("-") for part in _distinct([tier or "other", *parts]))


def _distinct(parts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(part for part in parts if part))


def _rank(tier: str) -> int:
    return TIERS.index(tier) if tier in TIERS else len(TIERS)
