"""The demo's output: a bar on a terminal, occasional lines elsewhere, and a table at the end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

LINE_SECONDS = 5.0  # between lines if there is no terminal


class Bar(Protocol):
    """Shows the progress of a task."""

    def update(self, fraction: float, note: str) -> None:
        """Show the share done, from 0 to 1, and a few words."""


class _TerminalBar:
    def __init__(self, progress: Progress, title: str) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=1.0, note="")

    def update(self, fraction: float, note: str) -> None:
        self._progress.update(self._task, completed=fraction, note=note)


class _PlainBar:
    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._shown = time.monotonic()
        self._complete = False

    def update(self, fraction: float, note: str) -> None:
        completed = fraction >= 1 and not self._complete
        if completed or time.monotonic() - self._shown >= LINE_SECONDS:
            self._shown = time.monotonic()
            self._complete = fraction >= 1
            self._console.print(f"{self._title}: {fraction:4.0%}  {note}", markup=False, highlight=False)


@contextmanager
def progress_bar(console: Console, title: str) -> Iterator[Bar]:
    """A bar that suits the console, as long as the context lasts."""
    if not console.is_terminal:
        console.print(f"{title} ...", markup=False, highlight=False)
        yield _PlainBar(console, title)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
    )
    with Progress(*columns, console=console) as progress:
        yield _TerminalBar(progress, title)


def language_table(evaluation: Iterable[Mapping[str, Any]], weights: Mapping[str, float]) -> Table:
    """The report's figures per language.

    Args:
        evaluation: The entries of the report's `evaluation`.
        weights: The mix.
    """
    table = Table(title="What pruning cost each language")
    table.add_column("\nlanguage")
    for heading in ("in the\nmix", "perplexity\ndense", "\npruned", "\ngrowth", "bits per byte\ndense", "\npruned"):
        table.add_column(heading, justify="right")
    for entry in evaluation:
        weight = weights.get(entry["language"])
        table.add_row(
            entry["language"],
            "no" if weight is None else f"{weight:.0%}",
            f"{entry['dense_perplexity']:.3f}",
            f"{entry['pruned_perplexity']:.3f}",
            f"x{entry['perplexity_ratio']:.3f}",
            f"{entry['dense_bits_per_byte']:.3f}",
            f"{entry['pruned_bits_per_byte']:.3f}",
        )
    return table
