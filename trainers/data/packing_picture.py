"""Draws packings: for each strategy the bins of every rank and step, sample by sample."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullLocator

from trainers.data.packing import DUMMY, Lengths, pack
from trainers.data.packing_stats import PackingStats, bin_tokens

_MAX_STEPS = 16
_MAX_RANKS = 8
_UNUSED, _WAITING, _PADDING = "#eef0f2", "#f2b8a0", "#b9bec6"


def draw(
    path: Path,
    lengths: Lengths,
    batch: Lengths,
    stats: Sequence[PackingStats],
    max_tokens_per_rank: int,
    num_ranks: int,
    title: str,
) -> None:
    """Write a picture of the data set and of what each strategy does to one batch of it.

    Args:
        path: the file; its suffix chooses the format (png, svg, pdf).
        lengths: tokens of all samples, for the histogram.
        batch: tokens of the samples of the batch that is drawn; at most 16 steps and 8 ranks of it are.
        stats: numbers of each strategy over all batches, in the order to draw.
        max_tokens_per_rank: limit of a bin in tokens.
        num_ranks: ranks that share the batch.
        title: what stands above.

    Raises:
        ValueError: if the suffix is not a format that matplotlib can write.
        OSError: if the file cannot be written.
    """
    packings = [pack(batch, max_tokens_per_rank, num_ranks, each.strategy, oversize="drop") for each in stats]
    shown_steps = min(max(packing.num_steps for packing in packings), _MAX_STEPS)
    lanes = min(num_ranks, _MAX_RANKS)
    panel = 0.62 + 0.3 * lanes
    figure = Figure(figsize=(13, 3.4 + panel * len(stats)), layout="constrained", dpi=110)
    axes = figure.subplots(len(stats) + 1, 1, height_ratios=[1.9, *[panel] * len(stats)])
    figure.suptitle(title, x=0.01, ha="left", fontsize=14, fontweight="bold")
    color = ScalarMappable(
        LogNorm(int(np.min(lengths)), max(max_tokens_per_rank, int(np.min(lengths)) + 1)), colormaps["viridis"]
    )
    _draw_lengths(axes[0], np.asarray(lengths), max_tokens_per_rank)
    for ax, each, packing in zip(axes[1:], stats, packings, strict=True):
        tokens = bin_tokens(packing, batch, each.strategy)
        for step, bins in enumerate(tokens[:_MAX_STEPS]):
            slowest = max(computed for _, computed in bins) / max_tokens_per_rank
            for rank in range(lanes):
                own = [int(batch[i]) for i in packing.minibatches[rank][step] if i != DUMMY]
                _draw_bin(ax, step, rank, own, bins[rank][1], slowest, max_tokens_per_rank, color)
        ax.set_xlim(0, shown_steps)
        ax.set_ylim(lanes - 0.5, -0.5)
        ax.set_xticks(range(shown_steps + 1), [])
        ax.set_yticks(range(lanes), [f"rank {rank}" for rank in range(lanes)], fontsize=8)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set_title(_caption(each, packing.num_steps), loc="left", fontsize=10)
    axes[-1].set_xticks(np.arange(shown_steps) + 0.5, [f"step {step}" for step in range(shown_steps)], fontsize=8)
    figure.legend(
        handles=[
            Patch(color=_UNUSED, label="room left"),
            Patch(facecolor=_WAITING, edgecolor="white", hatch="////", label="waits for the fullest rank"),
            *([Patch(color=_PADDING, label="padding")] if any(each.padding for each in stats) else []),
        ],
        loc="outside lower left",
        ncols=3,
        frameon=False,
        fontsize=9,
    )
    bar = figure.colorbar(color, ax=axes[1:], label="tokens of the sample", fraction=0.02, pad=0.01)
    bar.ax.tick_params(labelsize=8)
    bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    bar.ax.yaxis.set_major_formatter("{x:,.0f}")
    bar.ax.yaxis.set_minor_locator(NullLocator())
    figure.savefig(path)


def _caption(stats: PackingStats, steps_of_batch: int) -> str:
    plural = "s" * (steps_of_batch != 1)
    parts = [
        f"{steps_of_batch} step{plural} (all batches: {stats.num_steps}, at least {stats.min_steps})",
        f"{stats.fill:.1%} filled",
        f"{stats.waiting:.1%} waiting",
    ]
    if stats.padding:
        parts.append(f"{stats.padding:.1%} padding")
    return f"$\\bf{{{stats.strategy.replace('_', chr(92) + '_')}}}$   " + "  ·  ".join(parts)


def _draw_lengths(ax: Axes, lengths: np.ndarray, limit: int) -> None:
    edges = np.unique(np.geomspace(lengths.min(), lengths.max() + 1, 40).astype(int)) - 0.5
    ax.hist(lengths, bins=edges.tolist(), color="#31688e", edgecolor="white", linewidth=0.4)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.axvline(limit, color="#c0392b", linewidth=1.5)
    ax.annotate("limit", (limit, 0.9), (4, 0), ("data", "axes fraction"), "offset points", color="#c0392b", fontsize=9)
    ax.set_ylabel("samples", fontsize=9)
    ax.set_xlabel("tokens per sample", fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title(
        f"{len(lengths):,} samples, {lengths.sum():,} tokens: median {np.median(lengths):.0f}, "
        f"99 % below {np.percentile(lengths, 99):.0f}, longest {lengths.max():,}",
        loc="left",
        fontsize=10,
    )


def _draw_bin(
    ax: Axes, step: int, rank: int, own: list[int], computed: int, slowest: float, limit: int, color: ScalarMappable
) -> None:
    """One cell of the lane of a rank: full width is the limit."""
    y = (rank - 0.38, 0.76)
    cell = 0.96
    widths = np.array(own) / limit * cell
    left = step + 0.02
    ax.broken_barh([(left, cell)], y, facecolors=_UNUSED)
    ax.broken_barh([(left, slowest * cell)], y, facecolors=_WAITING, hatch="////", edgecolor="white", linewidth=0)
    ax.broken_barh([(left, computed / limit * cell)], y, facecolors=_PADDING)
    starts = left + np.concatenate(([0.0], np.cumsum(widths)))[:-1]
    ax.broken_barh(
        list(zip(starts, widths, strict=True)),
        y,
        facecolors=color.to_rgba(np.array(own)),
        edgecolor="white",
        linewidth=0.3,
    )
    if not own:
        ax.text(step + 0.5, rank, "dummy", ha="center", va="center", fontsize=8, color="#7a4a38")
