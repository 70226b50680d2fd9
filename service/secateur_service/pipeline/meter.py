"""How far a job is, and how long it will take: work that was counted beforehand, ticked off piece by piece.

Every piece of work ends with a tick, which says its kind and size, tells the observer of the progress, and lets it
stop the job. The time that is left is the work that is left at the rate of what was done of its kind; until some was
done, at the rate of a piece that was tried out, else of the kind that is most like it. A piece is short, and others may
have the processor just then: its effort is measured in the processor's time, and turned into seconds as the effort of
all that was done turned out to take.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Literal

from secateur_service.pipeline.observer import JobObserver
from secateur_service.records.progress import Progress

Kind = Literal["evaluate", "calibrate", "solve", "head", "package", "publish"]

# What is reckoned like what, before it was measured: passes and the head are products of the same number type.
_LIKE: Mapping[Kind, tuple[Kind, ...]] = {
    "evaluate": ("calibrate", "head", "solve"),
    "calibrate": ("evaluate", "head", "solve"),
    "solve": ("calibrate", "evaluate", "head"),
    "head": ("evaluate", "calibrate", "solve"),
    "package": ("publish",),
    "publish": ("package",),
}
# Until they are measured: of a modest disk or network, in bytes, and of a modest processor, in operations.
_MODEST_RATES: Mapping[Kind, float] = {"package": 2e8, "publish": 2e8}
_MODEST_RATE = 3e10


class Meter:
    """Ticks work off.

    Args:
        observer: receives the progress and may stop the job.
        blocks: of the model.
        clock: seconds since some moment.
        effort: seconds of effort since some moment, such as the processor's; by default the clock.

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
        self.effort = effort or clock
        self._observer = observer
        self._blocks = blocks
        self._clock = clock
        self._planned: dict[Kind, float] = {}
        self._done: dict[Kind, float] = {}
        self._measured: dict[Kind, float] = {}  # of what is done, that whose time is known
        self._seconds: dict[Kind, float] = {}
        self._efforts: dict[Kind, float] = {}  # per operation of what was tried out
        self._spent = self._strained = 0.0  # seconds, and seconds of effort, of all that was measured
        self._fraction = 0.0
        self.begin(blocks)

    def begin(self, blocks: int) -> None:
        """The work on the blocks begins; what came before is no part of the progress."""
        self._blocks = blocks
        self.lap()
        self._began = self._last

    def plan(self, kind: Kind, amount: float) -> None:
        """Announce work, in operations; of packaging and publishing in bytes."""
        self._planned[kind] = self._planned.get(kind, 0.0) + amount

    def skip(self, kind: Kind, amount: float) -> None:
        """Count planned work that an earlier attempt did."""
        self._done[kind] = self._done.get(kind, 0.0) + amount

    def gauge(self, kind: Kind, amount: float, effort: float) -> None:
        """Take note of the effort of a piece that was tried out, which counts as no work done."""
        if amount > 0 and effort > 0:
            self._efforts[kind] = effort / amount

    def lap(self) -> None:
        """Let the time since the last piece count for none."""
        self._last, self._last_effort = self._clock(), self.effort()

    def tick(self, kind: Kind, amount: float) -> None:
        """Count a piece of work, with the time since the piece before.

        Raises:
            CancelledError, PreemptedError, FencedError: as the observer says.
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
            CancelledError, PreemptedError, FencedError: as the observer says.
        """
        self._observer.check()

    def block_done(self) -> None:
        """A block is finished."""
        self.blocks_done += 1
        self.report()

    def finish(self) -> None:
        """All is done, whatever was counted."""
        self._fraction = 1.0
        self._observer.progress(Progress(self.blocks_done, self._blocks, 1.0, 0.0))

    def report(self) -> None:
        """Tell the observer how far the job is."""
        left = self.seconds_left()
        over = self._last - self._began + sum(self._seconds_of(kind, self._unmeasured(kind)) for kind in self._done)
        if left + over > 0:  # the estimate may change, the bar goes only forward
            self._fraction = max(self._fraction, min(1.0, over / (left + over)))
        self._observer.progress(Progress(self.blocks_done, self._blocks, self._fraction, left))

    def seconds_left(self) -> float:
        """How long the work that is left will take, at the rates that are known so far."""
        return sum(
            self._seconds_of(kind, max(0.0, planned - self._done.get(kind, 0.0)))
            for kind, planned in self._planned.items()
        )

    def _unmeasured(self, kind: Kind) -> float:
        """Work of an earlier attempt."""
        return max(0.0, self._done[kind] - self._measured.get(kind, 0.0))

    def _seconds_of(self, kind: Kind, amount: float) -> float:
        if kind in self._efforts and not self._measured.get(kind):
            pace = self._spent / self._strained if self._spent > 0 and self._strained > 0 else 1.0
            return amount * self._efforts[kind] * pace
        for like in (kind, *_LIKE[kind]):
            if self._measured.get(like) and self._seconds.get(like):
                return amount / self._measured[like] * self._seconds[like]
        return amount / _MODEST_RATES.get(kind, _MODEST_RATE)
