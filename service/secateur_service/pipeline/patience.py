"""Waits for an object store that does not answer, so that an outage of minutes does not end a job of hours.

Only what is done at the end waits: while blocks are pruned, what cannot be moved to the store stays on this machine,
and nothing waits for it. The lease is kept meanwhile, and the observer may stop the job.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from secateur_service.artifacts.port import OUTAGES
from secateur_service.errors import TransientError
from secateur_service.pipeline.observer import JobObserver

T = TypeVar("T")

BASE_SECONDS = 1.0
MAX_SECONDS = 30.0
TELL_SECONDS = 300.0
"""An outage is logged this often, so that an attempt that waits is not taken for one that hangs."""

_LOOK_SECONDS = 0.5


class Patience:
    """Repeats what failed because the object store did not answer.

    Args:
        seconds: how long, from the first failure on; 0 for not at all.
        observer: is told of the outage, and may stop the job during a wait.
        clock: seconds since an arbitrary start.
        sleep: waits for seconds.
        jitter: factor of each wait, so that the workers of a store do not all come back at once.
    """

    def __init__(
        self,
        seconds: float,
        observer: JobObserver,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = lambda: random.uniform(0.5, 1.0),  # noqa: S311 - spreads load, hides nothing
    ) -> None:
        self._seconds = seconds
        self._observer = observer
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter

    def insist(self, what: str, work: Callable[[], T]) -> T:
        """Do something until the store answers.

        Args:
            what: names it, for the log.
            work: does it; safe to repeat.

        Raises:
            TransientError: the store was away for too long, or something else failed that may pass.
            CancelledError, PreemptedError, FencedError: raised by the observer.
        """
        since = told = None
        pause = BASE_SECONDS
        while True:
            try:
                value = work()
            except TransientError as error:
                now = self._clock()
                since = now if since is None else since
                left = since + self._seconds - now
                if error.reason not in OUTAGES or left <= 0:
                    raise
                if told is None or now - told >= TELL_SECONDS:
                    message = f"{what} waits for the object store, and goes on when that answers"
                    self._observer.log(
                        "warning", message, reason=error.reason, error=error.message, gives_up_in_seconds=round(left)
                    )
                    told = now
                self._wait(min(pause * self._jitter(), left))
                pause = min(2 * pause, MAX_SECONDS)
            else:
                if since is not None:
                    away = round(self._clock() - since, 1)
                    self._observer.log("info", f"the object store answers again: {what} goes on", after_seconds=away)
                return value

    def _wait(self, seconds: float) -> None:
        end = self._clock() + seconds
        while (left := end - self._clock()) > 0:
            self._observer.check()
            self._sleep(min(left, _LOOK_SECONDS))
        self._observer.check()
