"""How far along a job is, and how long it will take: work is counted in advance and ticked off piece by piece.

Every piece of work ends with a tick, which states its kind and size, reports the progress to the observer, and lets it
stop the job. The time left is the remaining work at the measured rate of its kind; before any of that kind is done, at
the rate of a trial piece, or else of the most similar kind.

Other processes may be using the processor, more of it at one time than at another. Computing is therefore measured in
effort, such as processor time, and converted to seconds by the ratio that lately done work has shown. What moves bytes
is measured in seconds.

A job as a whole is foreseen roughly, from its estimate, until its pieces can be planned. So the search for a plan, for
example, is a part of the whole.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from secateur_service.pipeline.observer import JobObserver
from secateur_service.records.progress import Progress

Kind = Literal["fetch", "write", "evaluate", "calibrate", "solve", "head", "generate", "package", "publish"]

# Which kinds stand in for a kind that is not measured yet: passes and the head are products of the same number type.
_LIKE: Mapping[Kind, tuple[Kind, ...]] = {
    "fetch": (),
    "write": (),
    "evaluate": ("calibrate", "head", "solve"),
    "calibrate": ("evaluate", "head", "solve"),
    "solve": ("calibrate", "evaluate", "head"),
    "head": ("evaluate", "calibrate", "solve"),
    "generate": (),
    "package": ("publish",),
    "publish": ("package",),
}
_MOVES_BYTES = ("fetch", "package", "publish")
_FORESEEN = ("write", "evaluate", "calibrate", "solve", "head")  # what an estimate's operations are spent on
# Rates per second until they are measured: modest memory, disk or network, in bytes, and a modest processor, in
# operations.
_MODEST_RATES: Mapping[Kind, float] = {"fetch": 5e7, "generate": 5e9, "package": 2e8, "publish": 2e8}
_MODEST_RATE = 3e10
# How long it is remembered how much of the processor the job had.
_PACE_SECONDS = 120.0
# Effort that the expected rate is worth, and that it is taken to have been given all of the processor.
_DOUBT_SECONDS = 0.5
# How fast a bar moves that is ahead of the truth, as a share of the pace that would take it to the end in time.
_SLOWLY = 0.3


class Meter:
    """Counts the work done.

    Args:
        observer: receives the progress and may stop the job.
        blocks: number of blocks of the model.
        clock: seconds since an arbitrary start.
        effort: seconds of effort since an arbitrary start, such as processor time; by default the clock.
        rate: operations per second of effort to be expected of the device, with which the first pieces are averaged, as
            these are slow; by default a modest processor's, until there is a piece.

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
        rate: float | None = None,
    ) -> None:
        self.blocks_done = 0
        self.effort = effort or clock
        self._observer = observer
        self._blocks = blocks
        self._clock = clock
        self._rate = rate or _MODEST_RATE
        self._doubt = _DOUBT_SECONDS if rate else 0.0
        self._is_trial = False
        self._planned: dict[Kind, float] = {}
        self._foreseen = 0.0
        self._done: dict[Kind, float] = {}
        self._measured: dict[Kind, float] = {}  # the part of the work done whose time is known
        self._spent: dict[Kind, float] = {}  # the seconds that it took, of effort where it is computing
        self._tried: dict[Kind, float] = {}  # seconds of effort per operation, from trials
        self._seconds = self._effort = self._doubt  # of computing lately
        self._fraction = 0.0
        self._fetched = 0, 0
        self.lap()

    def begin(self, blocks: int, done: int = 0) -> None:
        """Start counting blocks, of which an earlier attempt has finished some; not those of a model that is tried."""
        self.lap()
        if not self._is_trial:
            self._blocks, self.blocks_done = blocks, done

    def resume(self, progress: Progress) -> None:
        """Go on from where an earlier attempt was: only what is planned from now on is left."""
        self.begin(progress.blocks_total, progress.blocks_done)
        self.detail()
        self._fraction = progress.fraction

    @property
    def progress(self) -> Progress:
        """How far along the job is."""
        done, total = self._fetched
        left = self.seconds_left()
        return Progress(self.blocks_done, self._blocks, self._fraction, left, bytes_done=done, bytes_total=total)

    def plan(self, kind: Kind, amount: float) -> None:
        """Announce work, in operations; writing of text (weights read), fetching and storing in bytes."""
        self._planned[kind] = self._planned.get(kind, 0.0) + amount

    def foresee(self, amount: float) -> None:
        """Announce the job's operations roughly, in place of what was; they count until `detail` is called."""
        self._foreseen = amount

    def detail(self, amount: float = math.inf) -> None:
        """Plan from now on, and more precisely, what was foreseen to take so many operations; by default all."""
        self._foreseen = max(0.0, self._foreseen - amount)

    def skip(self, kind: Kind, amount: float) -> None:
        """Count planned work that an earlier attempt did."""
        self._done[kind] = self._done.get(kind, 0.0) + amount

    def gauge(self, kind: Kind, amount: float, effort: float) -> None:
        """Record the effort of a trial piece, which does not count as work done."""
        if amount > 0 and effort > 0:
            self._tried[kind] = effort / amount

    def learn(self, kind: Kind, amount: float) -> None:
        """Take the time since the previous piece for that of a trial piece, which does not count as work done."""
        _, effort = self._since_last(computes=True)
        self.gauge(kind, amount, effort)

    def _since_last(self, *, computes: bool) -> tuple[float, float]:
        """Seconds, and seconds of effort, since the last piece; the next begins."""
        before, before_effort = self._last, self._last_effort
        self.lap()
        seconds, effort = self._last - before, self._last_effort - before_effort
        if computes:
            kept = math.exp(-seconds / _PACE_SECONDS)
            self._seconds, self._effort = kept * self._seconds + seconds, kept * self._effort + effort
        return seconds, effort

    def lap(self) -> None:
        """Discard the time since the last piece."""
        self._last, self._last_effort = self._clock(), self.effort()

    def tick(self, kind: Kind, amount: float) -> None:
        """Count a piece of work, with the time since the previous piece.

        Raises:
            CancelledError, PreemptedError, FencedError: raised by the observer.
        """
        seconds, effort = self._since_last(computes=kind not in _MOVES_BYTES)
        self._measured[kind] = self._measured.get(kind, 0.0) + amount
        self._spent[kind] = self._spent.get(kind, 0.0) + (seconds if kind in _MOVES_BYTES else effort)
        self.skip(kind, amount)
        self.report(self._seconds_of(kind, amount))
        self._observer.check()

    def reach(self, kind: Kind, done: float, total: float) -> Callable[[float], None]:
        """Announce work of which some is done; returns what to call with how much is done from time to time."""
        self.plan(kind, total - done)
        self.lap()
        reached = done

        def tick(done: float) -> None:
            nonlocal reached
            if done > reached:
                self.tick(kind, done - reached)
                reached = done

        return tick

    def fetched(self, done: int, total: int = 0) -> None:
        """Report how many bytes there are of what is being fetched, and of how many; from any thread.

        Once all of it is there, nothing is being fetched any more. A total of 0 is unknown: 0 bytes of it are the end.
        """
        self._fetched = (0, 0) if done == total else (done, total)
        self._observer.progress(self.progress)

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

    def report(self, piece_seconds: float = 0.0) -> None:
        """Report to the observer how far along the job is, with what a piece has just taken, as reckoned now."""
        left = self.seconds_left()
        # Not the time since the start: what is left has no time for what is not counted either.
        over = sum(self._seconds_of(kind, amount) for kind, amount in self._done.items())
        if over > 0 and left + over > 0:
            # Where more work turned up than was expected, the bar does not go back, nor does it stand still.
            slowly = _SLOWLY * (1 - self._fraction) * piece_seconds / (piece_seconds + left) if piece_seconds else 0.0
            self._fraction = min(1.0, max(self._fraction + slowly, over / (left + over)))
        self._observer.progress(self.progress)

    def seconds_left(self) -> float:
        """How long the remaining work will take, at the rates known so far."""
        planned = sum(
            self._seconds_of(kind, max(0.0, amount - self._done.get(kind, 0.0)))
            for kind, amount in list(self._planned.items())  # what another thread plans meanwhile is left out
        )
        return planned + self._seconds_of("calibrate", self._foreseen)

    def _seconds_of(self, kind: Kind, amount: float) -> float:
        pace = 1.0 if kind in _MOVES_BYTES or not self._effort else self._seconds / self._effort
        for like in (kind, *_LIKE[kind]):
            if self._measured.get(like) and self._spent.get(like):
                spent, measured = self._spent[like], self._measured[like]
                if kind in _FORESEEN:
                    spent, measured = spent + self._doubt, measured + self._doubt * self._rate
                return amount / measured * spent * pace
            if like in self._tried:
                return amount * self._tried[like] * pace
        return amount / _MODEST_RATES.get(kind, self._rate) * pace
