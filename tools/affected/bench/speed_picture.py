"""The picture of what `speed` measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from tools.affected.bench.measure import Case
from tools.affected.bench.speed_report import GOAL, YARDSTICK, Size

_COLORS = ("#aab0b8", "#6e757d", "#dbb244", "#1b9e77", "#4e4a8c")
_PANELS = (
    ("warm server, base cached", Case("warm", "cached", "a leaf library")),
    ("warm server, new base", Case("warm", "new", "a leaf library")),
    ("cold server, new base", Case("cold", "new", "a leaf library")),
)


def draw(sizes: Sequence[Size], path: Path) -> None:
    """Draws time over targets for a change of a leaf library, and beside the query for every change.

    Args:
      sizes: what was measured.
      path: the file; its suffix chooses the format.
    """
    participants = sizes[-1].participants
    colors = dict(zip(participants, _COLORS, strict=False))
    figure = Figure(figsize=(12, 7.4), layout="constrained")
    titles = [title for title, _ in _PANELS]
    axes = figure.subplot_mosaic([[*titles], ["ratios" for _ in titles]])
    for title, case in _PANELS:
        axes[title].sharey(axes[titles[0]])
        _draw_growth(axes[title], sizes, case, colors)
        axes[title].set_title(f"{title}: a leaf library changed", loc="left", fontsize=9.5)
    axes[titles[0]].set_ylabel("seconds (median, least to most)")
    _draw_ratios(axes["ratios"], max(sizes, key=lambda size: size.targets), colors)
    handles, names = axes[titles[0]].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    figure.savefig(path, dpi=110)


def _draw_growth(ax: Axes, sizes: Sequence[Size], case: Case, colors: dict[str, str]) -> None:
    for name, color in colors.items():
        points = [(size.targets, row) for size in sizes if (row := size.row(name, case))]
        if points:
            medians = [row.median for _, row in points]
            below = [row.median - min(row.seconds) for _, row in points]
            above = [max(row.seconds) - row.median for _, row in points]
            ax.errorbar(
                [targets for targets, _ in points],
                medians,
                yerr=[below, above],
                color=color,
                marker="o",
                markersize=4,
                capsize=2,
                label=name,
            )
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xticks([size.targets for size in sizes], [f"{size.targets:,}" for size in sizes])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set_xlabel("targets")
    ax.grid(axis="y", color="#e4e6e9", linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)


def _draw_ratios(ax: Axes, size: Size, colors: dict[str, str]) -> None:
    changes = list(dict.fromkeys(row.case.change for row in size.rows))
    names = [name for name in colors if name != YARDSTICK]
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        ratios = [size.ratio(name, Case("warm", "cached", change)) for change in changes]
        known = [(place, ratio) for place, ratio in enumerate(ratios) if ratio is not None]
        bars = ax.bar(
            [place - 0.4 + (i + 0.5) * width for place, _ in known],
            [ratio for _, ratio in known],
            width=width * 0.92,
            color=colors[name],
        )
        ax.bar_label(bars, fmt="%.2f", fontsize=8, padding=1)
    ax.axhline(1, color=colors.get(YARDSTICK, "#aab0b8"), linewidth=1)
    ax.axhline(GOAL, color="#c0392b", linewidth=1, linestyle="--")
    ax.annotate(f"goal {GOAL}", (0, GOAL), (4, 3), ("axes fraction", "data"), "offset points", color="#c0392b")
    ax.set_xticks(range(len(changes)), changes)
    ax.set_ylabel("time / one query of the head")
    ax.set_title(f"warm server, base cached, {size.targets:,} targets, by change", loc="left", fontsize=9.5)
    ax.tick_params(axis="x", length=0)
    ax.spines[["top", "right"]].set_visible(False)
