"""Follows the store's event log for the whole server: one wait, however many watchers there are.

When the store reports a write, the follower reads the new events and hands them to the subscribers: the watches, which
learn that there is something to read, and the metrics.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from secateur_service.api.thread_pool import ThreadPool
from secateur_service.jobs.job import Event
from secateur_service.jobs.port import Jobs

Subscriber = Callable[[Sequence[Event]], None]

_PAGE = 256
_WAIT_SECONDS = 0.25  # for changes; server shutdown may wait as long
_FIRST_PAUSE_SECONDS = 0.2  # after a failure
_LONGEST_PAUSE_SECONDS = 5.0

_log = structlog.get_logger(__name__)


class EventFollower:
    """Waits for changes in the store and hands every new event to the subscribers, in the order of writing.

    `on_loop` subscribers are called in the event loop and must be quick; `in_thread` subscribers may block.
    """

    def __init__(
        self,
        store: Jobs,
        pool: ThreadPool,
        *,
        on_loop: Sequence[Subscriber] = (),
        in_thread: Sequence[Subscriber] = (),
    ) -> None:
        self._store = store
        self._pool = pool
        self._on_loop = tuple(on_loop)
        self._in_thread = tuple(in_thread)
        self._position = 0
        self._token: int | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start with events written from now on."""
        self._position = await self._pool.call(self._store.position)
        self._task = asyncio.create_task(self._run(), name="event-follower")

    async def stop(self) -> None:
        """Stop following; a read that has begun finishes in its thread."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                await self._follow()
            except Exception as error:  # noqa: BLE001  # an unavailable store must not end the follower: it comes back
                failures += 1
                if failures == 1:
                    _log.error("the event log cannot be followed; trying again", exc_info=error)
            else:
                if failures:
                    _log.info("the event log is followed again", failed_reads=failures)
                failures = 0
                continue
            await asyncio.sleep(min(_FIRST_PAUSE_SECONDS * 2 ** min(failures, 8), _LONGEST_PAUSE_SECONDS))

    async def _follow(self) -> None:
        token = await self._pool.call(self._store.await_change, self._token, _WAIT_SECONDS)
        if token == self._token:
            return
        while events := await self._pool.call(self._read):
            for subscriber in self._on_loop:
                subscriber(events)
            for subscriber in self._in_thread:
                await self._pool.call(subscriber, events)
        self._token = token

    def _read(self) -> list[Event]:
        """Read one page; no event is handed out twice, even if a subscriber fails on it."""
        events, self._position = self._store.events_since(self._position, limit=_PAGE)
        return events
