"""Readiness: whether this replica takes work, judged from time to time by whether results can be written.

Only what waiting does not mend counts: a folder without permission, a missing bucket, keys that may not write. While a
store is down, this replica stays ready: jobs are still listed, watched and cancelled, and submissions say what is down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from secateur_service.errors import PermanentError, ResourceError, TransientError

_log = structlog.get_logger(__name__)


class Readiness:
    """Tries the destination again and again, and shows what changes.

    Args:
        check: raises if results cannot be written; may take seconds.
        show: called with whether this replica is ready, when that changes.
        pause_seconds: between two tries.
    """

    def __init__(
        self, check: Callable[[], None], show: Callable[[bool], Awaitable[None]], *, pause_seconds: float
    ) -> None:
        self._check = check
        self._show = show
        self._pause_seconds = pause_seconds
        self._problem = ""

    async def watch(self) -> None:
        """Try for ever."""
        while True:
            await asyncio.sleep(self._pause_seconds)
            await self.look()

    async def look(self) -> None:
        """Try once."""
        problem = ""
        try:
            await asyncio.to_thread(self._check)
        except PermanentError as error:
            problem = error.message
        except (ResourceError, TransientError) as error:
            _log.warning("results cannot be written at the moment", problem=error.message, reason=error.reason)
        if bool(problem) != bool(self._problem):
            if problem:
                _log.error("results cannot be written, so this replica takes no work", problem=problem)
            else:
                _log.info("results can be written again")
            await self._show(not problem)
        self._problem = problem
