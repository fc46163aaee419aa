"""Tables of what `speed` measured, and whether the goals are met."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence

from tools.affected.bench.measure import BASES, SERVERS, Case, Row

# Whose time the others are divided by.
YARDSTICK = "query"
GOAL = 1.5
# An exponent of the growth of time with targets that counts as linear.
LINEAR = 1.1


@dataclasses.dataclass(frozen=True)
class Memory:
    """Peaks of resident memory in MB; of its own process, None for a mere query."""

    server: float
    own: float | None


@dataclasses.dataclass(frozen=True)
class Size:
    """Everything measured on one workspace.

    Attributes:
      targets: its number of targets.
      tests: its number of tests.
      rows: times.
      memory: participant to its peaks.
      warm_up: participant to the seconds of each run before counting.
    """

    targets: int
    tests: int
    rows: tuple[Row, ...]
    memory: dict[str, Memory]
    warm_up: dict[str, tuple[float, ...]]

    @property
    def participants(self) -> list[str]:
        """Names in the order of their first row."""
        return list(dict.fromkeys(row.participant for row in self.rows))

    def row(self, participant: str, case: Case) -> Row | None:
        """What a participant took; one that no base matters to takes the same with each."""
        rows = {(row.participant, row.case): row for row in self.rows}
        cached = rows.get((participant, dataclasses.replace(case, base="cached")))
        return rows.get((participant, case)) or (cached if cached and cached.found is None else None)

    def ratio(self, participant: str, case: Case) -> float | None:
        """Median over that of the yardstick."""
        row, query = self.row(participant, case), self.row(YARDSTICK, case)
        return row.median / query.median if row and query else None


def to_json(sizes: Sequence[Size], facts: dict[str, str | int]) -> str:
    """All that was measured."""
    return json.dumps({"facts": facts, "sizes": [dataclasses.asdict(size) for size in sizes]}, indent=1) + "\n"


def from_json(text: str) -> list[Size]:
    """What `to_json` wrote."""
    return [
        Size(
            targets=size["targets"],
            tests=size["tests"],
            rows=tuple(
                Row(row["participant"], Case(**row["case"]), tuple(row["seconds"]), row["expected"], row["found"])
                for row in size["rows"]
            ),
            memory={name: Memory(**peaks) for name, peaks in size["memory"].items()},
            warm_up={name: tuple(seconds) for name, seconds in size["warm_up"].items()},
        )
        for size in json.loads(text)["sizes"]
    ]


def times(size: Size, server: str, base: str) -> str:
    """A table of one size: a row per change, median (least to most) of each participant and its ratio to the query."""
    participants = size.participants
    others = [name for name in participants if name != YARDSTICK]
    head = ["change", "affected", *(f"{name}, s" for name in participants), *(f"{name} / query" for name in others)]
    lines = []
    for change in dict.fromkeys(row.case.change for row in size.rows):
        case = Case(server, base, change)
        rows = [size.row(name, case) for name in participants]
        expected = next((row.expected for row in size.rows if row.case == case), None)
        if expected is not None:
            ratios = [size.ratio(name, case) for name in others]
            lines.append([change, f"{expected:,}", *map(_spread, rows), *map(_ratio, ratios)])
    return markdown(head, lines) if lines else ""


def found(size: Size) -> str:
    """A table of the tests that each participant named, beside those that are affected."""
    names = [name for name in size.participants if any(r.found is not None for r in size.rows if r.participant == name)]
    lines = []
    for change in dict.fromkeys(row.case.change for row in size.rows):
        rows = [row for row in size.rows if row.case.change == change and row.found is not None]
        if rows:
            counts = [sorted({row.found or 0 for row in rows if row.participant == name}) for name in names]
            lines.append([change, f"{rows[0].expected:,}", *(", ".join(f"{n:,}" for n in each) for each in counts)])
    return markdown(["change", "affected", *names], lines)


def memory(sizes: Sequence[Size]) -> str:
    """A table of peaks."""
    head = ["targets", "participant", "Bazel server, MB", "own process, MB"]
    lines = [
        [f"{size.targets:,}", name, f"{peak.server:,.0f}", "" if peak.own is None else f"{peak.own:,.0f}"]
        for size in sizes
        for name, peak in size.memory.items()
    ]
    return markdown(head, lines)


def growth(sizes: Sequence[Size], participant: str, case: Case) -> float | None:
    """The exponent k of time ~ targets^k between the smallest and the largest workspace."""
    small, large = min(sizes, key=lambda size: size.targets), max(sizes, key=lambda size: size.targets)
    before, after = small.row(participant, case), large.row(participant, case)
    if before is None or after is None or small.targets == large.targets:
        return None
    return math.log(after.median / before.median) / math.log(large.targets / small.targets)


def goals(sizes: Sequence[Size], ours: Sequence[str]) -> str:
    """A table of the goals: at most GOAL queries with a cached base and a warm server, and time linear in targets."""
    lines = []
    for name in ours:
        for change in dict.fromkeys(row.case.change for size in sizes for row in size.rows):
            case = Case("warm", "cached", change)
            ratios = [(size.targets, size.ratio(name, case)) for size in sizes]
            known = [(targets, ratio) for targets, ratio in ratios if ratio is not None]
            if known:
                exponent = growth(sizes, name, case)
                lines.append(
                    [
                        name,
                        change,
                        ", ".join(f"{ratio:.2f} at {targets:,}" for targets, ratio in known),
                        _met(all(ratio <= GOAL for _, ratio in known)),
                        "" if exponent is None else f"{exponent:.2f}",
                        "" if exponent is None else _met(exponent <= LINEAR),
                    ]
                )
    return markdown(["", "change", "/ query", f"<= {GOAL}", "growth exponent", f"<= {LINEAR}"], lines)


def report(sizes: Sequence[Size], ours: Sequence[str]) -> str:
    """All tables, as markdown."""
    parts = ["## Goals", goals(sizes, ours)]
    for size in sizes:
        parts.append(f"## {size.targets:,} targets, {size.tests:,} tests")
        for server in SERVERS:
            for base in BASES:
                if table := times(size, server, base):
                    parts += [f"Server {server}, base {base}; median (least to most) of several runs:", table]
        parts += ["Tests named:", found(size)]
    parts += ["## Peak resident memory", memory(sizes)]
    return "\n\n".join(parts) + "\n"


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table; columns of which every cell starts with a digit stand to the right."""
    right = [all(line[i][:1].isdigit() or not line[i] for line in lines) for i in range(len(head))]
    rule = ["---:" if each else "---" for each in right]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


def _spread(row: Row | None) -> str:
    return "" if row is None else f"{row.median:.2f} ({min(row.seconds):.2f} to {max(row.seconds):.2f})"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _met(yes: bool) -> str:
    return "yes" if yes else "**no**"
