"""The numbers as JSON, as a table in markdown, and as a picture."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from tools.remote.bench.measure import CASES, LOCAL, Row

_COLORS = ("#aab0b8", "#dbb244", "#1b9e77", "#4e4a8c", "#6e757d")


def to_json(rows: Sequence[Row], facts: Mapping[str, str | int]) -> str:
    """All runs, and the machine that they ran on."""
    return json.dumps({"facts": facts, "runs": [dataclasses.asdict(row) for row in rows]}, indent=1) + "\n"


def to_markdown(rows: Sequence[Row]) -> str:
    """A table for each workload: a line for each case, the median and the range of wall seconds for each way to run."""
    parts = []
    for workload in dict.fromkeys(row.workload for row in rows):
        ways = _ways(rows)
        lines = [
            f"{workload}, seconds",
            "",
            "| | " + " | ".join(map(_title, ways)) + " |",
            "|---" * (len(ways) + 1) + "|",
        ]
        for case in CASES:
            cells = [_cell(_seconds(rows, workload, how, case)) for how in ways]
            lines.append(f"| {case} | " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draws the medians, a panel for each workload.

    Args:
      rows: what was measured.
      path: the file; its suffix chooses the format.
    """
    workloads = list(dict.fromkeys(row.workload for row in rows))
    ways = _ways(rows)
    width = 0.8 / len(ways)
    figure = Figure(figsize=(12, 3.2 * len(workloads) + 0.6), layout="constrained")
    panels = figure.subplots(len(workloads), 1, squeeze=False)[:, 0]
    for ax, workload in zip(panels, workloads, strict=True):
        for i, how in enumerate(ways):
            found = [(place, _seconds(rows, workload, how, case)) for place, case in enumerate(CASES)]
            known = [(place, seconds) for place, seconds in found if seconds]
            medians = [statistics.median(seconds) for _, seconds in known]
            ranges = [
                [median - min(seconds) for median, (_, seconds) in zip(medians, known, strict=True)],
                [max(seconds) - median for median, (_, seconds) in zip(medians, known, strict=True)],
            ]
            at = [place - 0.4 + (i + 0.5) * width for place, _ in known]
            color = _COLORS[i % len(_COLORS)]
            bars = ax.bar(at, medians, width * 0.92, yerr=ranges, capsize=2, color=color, label=_title(how))
            ax.bar_label(bars, fmt="%.1f", fontsize=8, padding=1)
        ax.set_xticks(range(len(CASES)), list(CASES))
        ax.set_ylabel("seconds (median, least to most)")
        ax.set_title(workload, loc="left", fontsize=9.5)
        ax.tick_params(axis="x", length=0)
        ax.spines[["top", "right"]].set_visible(False)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    figure.savefig(path, dpi=110)


def _ways(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.how for row in rows))


def _title(how: str) -> str:
    return how if how == LOCAL else f"{how} worker{'s' if how != '1' else ''}"


def _seconds(rows: Sequence[Row], workload: str, how: str, case: str) -> list[float]:
    return [row.seconds for row in rows if (row.workload, row.how, row.case) == (workload, how, case)]


def _cell(seconds: Sequence[float]) -> str:
    if not seconds:
        return "-"
    return f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})"
