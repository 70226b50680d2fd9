"""How long a job waits before its next attempt."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Exponential backoff with jitter, so that jobs that failed together do not all retry at once."""

    base_seconds: float = 5.0
    max_seconds: float = 300.0

    def delay_seconds(self, charged_attempts: int, rng: random.Random) -> float:
        """The wait after a failure of a job that had this many charged attempts before.

        It doubles with each attempt up to the maximum; half of it is fixed and half random.
        """
        full = min(self.max_seconds, self.base_seconds * 2.0 ** min(charged_attempts, 32))
        return full * (0.5 + 0.5 * rng.random())
