"""Format rows of text as columns."""

from __future__ import annotations

from collections.abc import Sequence

from klpbuild.errors import printable


def columns(rows: Sequence[Sequence[str]], right: int | None = None) -> list[str]:
    """Format rows as lines whose cells stand below each other, control characters escaped.

    :param rows: all of one length.
    :param right: number of the column that is aligned on its right side.
    """
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = []
    for row in shown:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        if right is not None:
            cells[right] = row[right].rjust(widths[right])
        lines.append("  ".join(cells).rstrip())
    return lines
