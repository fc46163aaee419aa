"""Bar charts of benchmark rows as SVG, without any package: a host that measures may have none."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_WIDTH, _LABEL, _ROW, _HEAD = 900, 260, 26, 44
_COLORS = ("#4c78a8", "#f58518", "#54a24b")


def bars(label: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw one panel of horizontal bars per column, all from zero.

    Args:
        label: column with the names of the rows.
        columns: columns with numbers.
        rows: what to draw, top down.

    Returns:
        The SVG document.
    """
    panel = (_WIDTH - _LABEL) // len(columns)
    height = _HEAD + _ROW * len(rows) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
    ]
    for at, row in enumerate(rows):
        parts.append(
            f'<text x="{_LABEL - 10}" y="{_HEAD + at * _ROW + 17}" text-anchor="end">{escape(str(row[label]))}</text>'
        )
    for number, column in enumerate(columns):
        left = _LABEL + number * panel
        scale = (panel - 80) / (max(row[column] for row in rows) or 1)
        parts.append(f'<text x="{left}" y="26" font-weight="bold">{escape(column)}</text>')
        for at, row in enumerate(rows):
            top, width = _HEAD + at * _ROW, row[column] * scale
            color = _COLORS[number % len(_COLORS)]
            parts.append(f'<rect x="{left}" y="{top}" width="{width:.1f}" height="{_ROW - 6}" fill="{color}"/>')
            parts.append(f'<text x="{left + width + 6:.1f}" y="{top + 15}">{row[column]:,}</text>')
    return "\n".join([*parts, "</svg>", ""])
