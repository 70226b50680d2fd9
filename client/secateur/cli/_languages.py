"""Languages in tables: their names beside the tags where the terminal is wide enough, else below the table."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence

from secateur._language_names import in_words, language_name
from secateur._text import columns

_COLUMNS_IN_A_FILE = 120


def language_table(rows: Sequence[Sequence[str]], right: Sequence[int] = (), *, tags: int = 0) -> str:
    """A table as of `columns`, of which the column `tags` has languages, in each cell one or several with commas."""
    named = [[_in_words(cell) if number == tags else cell for number, cell in enumerate(row)] for row in rows]
    text = columns(named, right)
    if max(map(len, text.splitlines())) <= shutil.get_terminal_size((_COLUMNS_IN_A_FILE, 1)).columns:
        return text
    names = legend(tag for row in rows for tag in row[tags].split(","))
    return "\n".join(filter(None, (columns(rows, right), names)))


def legend(tags: Iterable[str]) -> str:
    """What the tags of a table stand for, on one line."""
    return ", ".join(in_words(tag) for tag in dict.fromkeys(tags) if language_name(tag))


def _in_words(cell: str) -> str:
    return ", ".join(map(in_words, cell.split(",")))
