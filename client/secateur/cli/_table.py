"""Tables that fit the terminal: columns that matter less are left out, texts that may be cut end with an ellipsis."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size

from secateur._terminal import clean

_GAP = 2


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: its first line.
        cells: the lines below.
        least: the cells of the terminal that it needs; None if it is never cut.
        rank: columns of the highest ranks are left out first.
        right: whether it is aligned right.
    """

    title: str
    cells: Sequence[str]
    rank: int
    least: int | None = None
    right: bool = False

    @property
    def width(self) -> int:
        """What it takes uncut."""
        return max(cell_len(clean(cell)) for cell in (self.title, *self.cells))

    @property
    def needed(self) -> int:
        """What it takes at least."""
        return self.width if self.least is None else min(self.width, self.least)


def terminal_width() -> int | None:
    """The width of the terminal that the output goes to; None if it goes elsewhere, where nothing is cut."""
    if sys.stdout is None or not (sys.stdout.isatty() or "COLUMNS" in os.environ):
        return None
    return shutil.get_terminal_size().columns


def fitted(columns: Sequence[Column], width: int | None) -> str:
    """A table of at most this width, unless its first column alone is wider.

    Columns are taken by rank as long as there is room for what they need; then those that were cut are widened.
    """
    shown: list[Column] = []
    room = None if width is None else width + _GAP
    for column in sorted(columns, key=lambda each: each.rank):
        if room is not None and shown and column.needed + _GAP > room:
            continue
        shown.append(column)
        room = None if room is None else room - column.needed - _GAP
    widths = {}
    for column in shown:
        more = column.width - column.needed if room is None else max(0, min(room, column.width - column.needed))
        room = None if room is None else room - more
        widths[column.title] = column.needed + more
    shown = [column for column in columns if column in shown]
    rows = zip(*((column.title, *column.cells) for column in shown), strict=True)
    return "\n".join(
        (" " * _GAP)
        .join(
            _cell(clean(cell), widths[column.title], right=column.right)
            for cell, column in zip(row, shown, strict=True)
        )
        .rstrip()
        for row in rows
    )


def _cell(text: str, width: int, *, right: bool) -> str:
    if cell_len(text) > width:
        return set_cell_size(set_cell_size(text, width - 1).rstrip() + "…", width)
    padding = " " * (width - cell_len(text))
    return padding + text if right else text + padding
