"""How far along a job is, and how long it will take: work is counted in advance and ticked off piece by piece.

Every piece of work ends with a tick, which states its kind and size, reports the progress to the observer, and lets it
stop the job. The time left is the remaining work at the measured rate of its kind; before any of that kind is done, at
the rate of a trial piece, or else of the most similar kind. A trial is short, and other processes may be using the
processor just then: its effort is measured in processor time, and converted to seconds by the ratio that all work done
so far has shown.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from secateur_service.pipeline.observer import JobObserver
from secateur_service.records.progress import Progress

Kind = Literal["evaluate", "calibrate", "solve", "head", "generate", "package", "publish"]

# Which kinds stand in for a kind that is not measured yet: passes and the head are products of the same number type.
_LIKE: Mapping[Kind, tuple[Kind, ...]] = {
    "evaluate": ("calibrate", "head", "solve"),
    "calibrate": ("evaluate", "head", "solve"),
    "solve": ("calibrate", "evaluate", "head"),
    "head": ("evaluate", "calibrate", "solve"),
    "generate": (),
    "package": ("publish",),
    "publish": ("package",),
}
# Rates per second until they are measured: modest memory, disk or network, in bytes, and a modest processor, in
# operations.
_MODEST_RATES: Mapping[Kind, float] = {"generate": 5e9, "package": 2e8, "publish": 2e8}
_MODEST_RATE = 3e10


class Meter:
    """Counts the work done.

    Args:
        observer: receives the progress and may stop the job.
        blocks: number of blocks of the model.
        clock: seconds since an arbitrary start.
        effort: seconds of effort since an arbitrary start, such as processor time; by default the clock.

    Attributes:
        effort: as given.
        blocks_done: finished blocks.
    """

    def __init__(
        self,
        observer: JobObserver,
        blocks: int = 0,
        clock: Callable[[], float] = time.monotonic,
        effort: Callable[[], float] | None = None,
    ) -> None:
        self.blocks_done = 0
        self._is_trial = False
        self.effort = effort or clock
        self._observer = observer
        self._blocks = blocks
        self._clock = clock
        self._planned: dict[Kind, float] = {}
        self._foreseen: dict[Kind, float] = {}
        self._done: dict[Kind, float] = {}
        self._measured: dict[Kind, float] = {}  # the part of the work done whose time is known
        self._seconds: dict[Kind, float] = {}
        self._efforts: dict[Kind, float] = {}  # per operation, from trials
        self._spent = self._strained = 0.0  # seconds, and seconds of effort, of all measured work
        self._fraction = 0.0
        self.begin(blocks)

    def begin(self, blocks: int) -> None:
        """Start counting the work on the blocks; earlier work is not part of the progress."""
        self._blocks = blocks
        self.lap()
        self._began = self._last

    def resume(self, progress: Progress) -> None:
        """Go on from where an earlier attempt was: only what is planned from now on is left."""
        self.begin(progress.blocks_total)
        self.blocks_done, self._fraction = progress.blocks_done, progress.fraction

    @property
    def progress(self) -> Progress:
        """How far along the job is."""
        return Progress(self.blocks_done, self._blocks, self._fraction, self.seconds_left())

    def plan(self, kind: Kind, amount: float) -> None:
        """Announce work, in operations; writing of text (weights read), packaging and publishing in bytes."""
        self._planned[kind] = self._planned.get(kind, 0.0) + amount

    def foresee(self, kind: Kind, amount: float) -> None:
        """Announce work roughly, before it can be planned; it counts until `detail` is called."""
        self._foreseen[kind] = amount

    def detail(self) -> None:
        """Replace what was announced roughly by what is planned from now on."""
        self._foreseen.clear()

    def skip(self, kind: Kind, amount: float) -> None:
        """Count planned work that an earlier attempt did."""
        self._done[kind] = self._done.get(kind, 0.0) + amount

    def gauge(self, kind: Kind, amount: float, effort: float) -> None:
        """Record the effort of a trial piece, which does not count as work done."""
        if amount > 0 and effort > 0:
            self._efforts[kind] = effort / amount

    def lap(self) -> None:
        """Discard the time since the last piece."""
        self._last, self._last_effort = self._clock(), self.effort()

    def tick(self, kind: Kind, amount: float) -> None:
        """Count a piece of work, with the time since the previous piece.

        Raises:
            CancelledError, PreemptedError, FencedError: raised by the observer.
        """
        before, before_effort = self._last, self._last_effort
        self.lap()
        self._measured[kind] = self._measured.get(kind, 0.0) + amount
        self._seconds[kind] = self._seconds.get(kind, 0.0) + self._last - before
        self._spent += self._last - before
        self._strained += self._last_effort - before_effort
        self.skip(kind, amount)
        self.report()
        self._observer.check()

    def check(self) -> None:
        """Let the observer stop the job.

        Raises:
            CancelledError, PreemptedError, FencedError: raised by the observer.
        """
        self._observer.check()

    def block_done(self) -> None:
        """Count a finished block."""
        self.blocks_done += not self._is_trial
        self.report()

    @contextlib.contextmanager
    def trial(self) -> Iterator[None]:
        """Blocks that finish in the context do not count: they are of a model that is only tried."""
        self._is_trial = True
        try:
            yield
        finally:
            self._is_trial = False

    def finish(self) -> None:
        """Report that everything is done, whatever was counted."""
        self._fraction = 1.0
        self._observer.progress(Progress(self.blocks_done, self._blocks, 1.0, 0.0))

    def report(self) -> None:
        """Report to the observer how far along the job is."""
        left = self.seconds_left()
        over = self._last - self._began + sum(self._seconds_of(kind, self._unmeasured(kind)) for kind in self._done)
        if left + over > 0:  # the estimate may change, but the bar only moves forward
            self._fraction = max(self._fraction, min(1.0, over / (left + over)))
        self._observer.progress(self.progress)

    def seconds_left(self) -> float:
        """How long the remaining work will take, at the rates known so far."""
        planned = sum(
            self._seconds_of(kind, max(0.0, amount - self._done.get(kind, 0.0)))
            for kind, amount in self._planned.items()
        )
        return planned + sum(self._seconds_of(kind, amount) for kind, amount in self._foreseen.items())

    def _unmeasured(self, kind: Kind) -> float:
        """Work done by an earlier attempt."""
        return max(0.0, self._done[kind] - self._measured.get(kind, 0.0))

    def _seconds_of(self, kind: Kind, amount: float) -> float:
        if kind in self._efforts and not self._measured.get(kind):
            pace = self._spent / self._strained if self._spent > 0 and self._strained > 0 else 1.0
            return amount * self._efforts[kind] * pace
        for like in (kind, *_LIKE[kind]):
            if self._measured.get(like) and self._seconds.get(like):
                return amount / self._measured[like] * self._seconds[like]
        return amount / _MODEST_RATES.get(kind, _MODEST_RATE)
