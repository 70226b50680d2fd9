"""A job's bar on a terminal: what it is doing, the share done, the blocks, and the time it took and will take.

Reports come seconds apart, and further where a job is long. Between two of them the bar goes on by the clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from secateur._terminal import clean
from secateur._text import duration, fetched_text, left_text

_REFRESHES_PER_SECOND = 2
# A report that is overdue for so much of the time since the last one: work that was not foreseen takes time too.
_OVERDUE_SHARE = 0.1
# What a bar that is not at its end shows at most.
_MOST = 0.99
# And how far it goes beyond the last report.
_AHEAD = 0.02
_NARROW = 64
_WIDTH = len("PUBLISHING")


class Countdown:
    """The share done and the time left, between two reports.

    Args:
        clock: Monotonic time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._fraction = self._shown = 0.0
        self._left: float | None = None
        self._at = clock()

    def report(self, fraction: float, left_seconds: float | None, age_seconds: float = 0.0) -> None:
        """Take over what a job says.

        Args:
            fraction: Share that is done, from 0 to 1.
            left_seconds: Expected time until the end; None while unknown.
            age_seconds: How long ago it said so.
        """
        # What was shown stays, unless the job itself goes back.
        self._shown = self.fraction if fraction >= self._fraction else 0.0
        self._fraction, self._left = fraction, left_seconds
        self._at = self._clock() - max(0.0, age_seconds)

    @property
    def left_seconds(self) -> float | None:
        """The time left: less every second, and a share of the wait where the next report is overdue."""
        if self._left is None:
            return None
        since = self._clock() - self._at
        return max(self._left - since, _OVERDUE_SHARE * since)

    @property
    def fraction(self) -> float:
        """The share done: what is missing shrinks with the time left, for a while."""
        reached = max(self._fraction, self._shown)
        if self._fraction >= 1 or not self._left:
            return reached
        since = self._clock() - self._at
        missing = (1 - self._fraction) * max(0.0, 1 - since / self._left)
        return max(reached, min(_MOST, self._fraction + _AHEAD, 1 - missing))


class Reported(Protocol):
    """How far a job is; both the SDK's and the service's `Progress` say so."""

    @property
    def blocks_done(self) -> int:
        """Finished decoder blocks."""

    @property
    def blocks_total(self) -> int:
        """Decoder blocks; 0 while unknown."""

    @property
    def fraction(self) -> float:
        """Share of the whole job that is done, from 0 to 1."""

    @property
    def eta_seconds(self) -> float | None:
        """Expected time until the end; None while unknown."""

    @property
    def bytes_done(self) -> int:
        """Bytes that are here of what is being fetched; 0 if nothing is."""

    @property
    def bytes_total(self) -> int:
        """Its size; 0 while unknown."""


def amount_text(progress: Reported) -> str:
    """What is fetched, while something is, and else the blocks; empty while neither is known."""
    if progress.bytes_done or progress.bytes_total:
        return fetched_text(progress.bytes_done, progress.bytes_total)
    return f"{progress.blocks_done}/{progress.blocks_total} blocks" if progress.blocks_total else ""


class JobBar:
    """The last lines of a terminal while a job runs; what is printed goes above them.

    Args:
        terminal: Where to draw.
        clock: Monotonic time in seconds.

    Attributes:
        doing: What the job is doing, in a word.
    """

    def __init__(self, terminal: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.doing = ""
        self._terminal = terminal
        self._clock = clock
        self._countdown = Countdown(clock)
        self._amount = ""
        self._began: float | None = None
        self._ended: float | None = None
        self._notice: tuple[str, float] | None = None
        self._live = Live(console=terminal, get_renderable=self.drawn, refresh_per_second=_REFRESHES_PER_SECOND)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._notice = None
        self._live.stop()

    def began(self, since_seconds: float) -> None:
        """The job began so long ago."""
        self._began = self._clock() - since_seconds

    def report(self, progress: Reported, age_seconds: float = 0.0) -> None:
        """Show how far the job is, or was so long ago."""
        self._countdown.report(progress.fraction, progress.eta_seconds, age_seconds)
        self._amount = amount_text(progress)

    def end(self, *, is_done: bool) -> None:
        """Show that the job has ended: its time stands still, and none is left."""
        self._ended = self._clock()
        self._countdown.report(1.0 if is_done else self._countdown.fraction, None)

    def notice(self, text: str | None) -> None:
        """Say something below the bar, and since when, in place of what was said there."""
        self._notice = None if text is None else (clean(text), self._clock())

    def print(self, line: str | Text) -> None:
        """Print above the bar."""
        self._terminal.print(Text(line) if isinstance(line, str) else line, soft_wrap=True)

    def drawn(self) -> RenderableType:
        """The bar as it is now; nothing before anything is known."""
        if not self.doing:
            return Group()
        line = self._line()
        if self._notice is None:
            return line
        text, since = self._notice
        said = f"{duration(self._clock() - since)} {text}"
        return Group(line, Text(said, style="yellow", no_wrap=True, overflow="ellipsis"))

    def _line(self) -> RenderableType:
        fraction, left = self._countdown.fraction, self._countdown.left_seconds
        details, is_narrow = [f"{100 * fraction:3.0f}%"], self._terminal.width < _NARROW
        if not is_narrow:
            details.append(self._amount)
        if self._began is not None and not is_narrow:
            until = self._clock() if self._ended is None else self._ended
            details.append(duration(until - self._began))
        if left is not None:
            details.append(left_text(left))
        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column(no_wrap=True)
        line.add_column(ratio=1)
        line.add_column(no_wrap=True, justify="right")
        doing = f"{self.doing:<{_WIDTH}}"  # so that the bar stays where it is
        line.add_row(doing, ProgressBar(total=1.0, completed=fraction), "  ".join(filter(None, details)))
        return line
