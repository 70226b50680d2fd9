"""Streams the events of jobs to their watchers.

Pull, not push: a watch reads one page of events from the store, writes them one by one as fast as its reader takes
them, and only then reads on. A slow reader costs the server one page and delays nobody. The store is the only source,
so a watch can resume on any replica at any event; the follower only signals when there is something to read.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from prometheus_client import Gauge

from secateur.v1 import prune_job_pb2 as pb
from secateur_service.api import conversion
from secateur_service.api.thread_pool import ThreadPool
from secateur_service.errors import (
    DrainingError,
    FieldViolation,
    InvalidRequestError,
    OverloadedError,
    SequenceExpiredError,
)
from secateur_service.jobs.job import Event
from secateur_service.jobs.port import Jobs

_PAGE = 256


class WatchHub:
    """Where watchers wait for new events of their job; lives in the event loop."""

    def __init__(self, *, max_watchers: int, gauge: Gauge, max_per_caller: int | None = None) -> None:
        """Prepare.

        Args:
            max_watchers: limit for all callers together.
            gauge: shows how many there are.
            max_per_caller: limit for one caller; None for no such limit.
        """
        self._max_watchers = max_watchers
        self._max_per_caller = max_per_caller
        self._of_callers: Counter[str] = Counter()
        self._gauge = gauge
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._watchers = 0
        self._draining = False

    @property
    def watchers(self) -> int:
        """Number of open watches."""
        return self._watchers

    @property
    def draining(self) -> bool:
        """Whether the service is stopping."""
        return self._draining

    @contextmanager
    def admit(self, job_id: str, caller: str | None = None) -> Iterator[asyncio.Event]:
        """Admit a watcher of a job; the event it gets is set whenever there is something to read.

        Args:
            job_id: the job.
            caller: the name of its token; None if no token is needed, and there are no shares.

        Raises:
            OverloadedError: the limit of all watchers, or of this caller's, is reached.
            DrainingError: the service is stopping.
        """
        self.check_open()
        if caller is not None and self._max_per_caller is not None:
            self._check_share(caller, self._max_per_caller)
        if self._watchers >= self._max_watchers:
            remedy = "poll GetPruneJob, or watch again when another watch has ended"
            raise OverloadedError(
                f"{self._max_watchers} watches are open, which is the limit of this server; {remedy}",
                reason="TOO_MANY_WATCHERS",
                metadata={"limit": str(self._max_watchers)},
            )
        news = asyncio.Event()
        self._watchers += 1
        if caller is not None:
            self._of_callers[caller] += 1
        self._gauge.inc()
        self._waiting[job_id].add(news)
        try:
            yield news
        finally:
            self._watchers -= 1
            if caller is not None:
                self._of_callers[caller] -= 1
                self._of_callers += Counter()  # drops callers with none
            self._gauge.dec()
            self._waiting[job_id].discard(news)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    def _check_share(self, caller: str, limit: int) -> None:
        if self._of_callers[caller] >= limit:
            raise OverloadedError(
                f"{limit} watches of the token {caller} are open, which is its share of this server; close one of "
                "them, poll GetPruneJob, or use another token",
                reason="TOO_MANY_WATCHERS_OF_CALLER",
                metadata={"limit": str(limit), "caller": caller},
            )

    def notify(self, events: Sequence[Event]) -> None:
        """Wake the watchers of the jobs that these events belong to."""
        for job_id in {event.job_id for event in events}:
            for news in self._waiting.get(job_id, ()):
                news.set()

    def drain(self) -> None:
        """End all watches and admit no more."""
        self._draining = True
        for waiting in self._waiting.values():
            for news in waiting:
                news.set()

    def check_open(self) -> None:
        """Return if watches may go on.

        Raises:
            DrainingError: the service is stopping.
        """
        if self._draining:
            raise DrainingError("the server is stopping; watch again, with the sequence number of the last event")


class JobWatcher:
    """Serves WatchPruneJob."""

    def __init__(
        self,
        store: Jobs,
        pool: ThreadPool,
        hub: WatchHub,
        *,
        heartbeat_seconds: float,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._pool = pool
        self._hub = hub
        self._heartbeat_seconds = heartbeat_seconds
        self._clock = clock

    async def watch(
        self, job_id: str, after_sequence: int | None, caller: str | None = None
    ) -> AsyncGenerator[pb.PruneJobEvent]:
        """Yield a snapshot (unless the watch resumes), then every later event once and in order, with heartbeats.

        Returns only after the terminal state was yielded, in its event or in the snapshot, or if the caller resumes
        after it.

        Raises:
            NotFoundError: there is no such job.
            SequenceExpiredError: the job has no event with that number yet.
            OverloadedError, DrainingError: not now, or not here.
        """
        if after_sequence is not None and after_sequence < 0:
            raise InvalidRequestError([FieldViolation("after_sequence", f"not negative, not {after_sequence}")])
        with self._hub.admit(job_id, caller) as news:
            job = await self._pool.call(self._store.get, job_id)
            if after_sequence is None:
                cursor = job.last_sequence
                yield conversion.snapshot_message(job, self._clock())
            else:
                cursor = after_sequence
                if cursor > job.last_sequence:
                    raise SequenceExpiredError(
                        f"the job has {job.last_sequence} events, not {cursor}; watch without after_sequence",
                        metadata={"last_sequence": str(job.last_sequence)},
                    )
            while True:
                self._hub.check_open()
                news.clear()
                page, ended = await self._pool.call(self._read, job_id, cursor)
                for event in page:
                    self._hub.check_open()
                    yield conversion.event_to_message(event)
                    cursor = event.sequence
                if ended:
                    return
                if not page and not await _within(news, self._heartbeat_seconds):
                    yield conversion.heartbeat_message(cursor, self._clock())

    def _read(self, job_id: str, cursor: int) -> tuple[list[Event], bool]:
        """The next page of events, and whether the job has ended and no more will follow."""
        page = self._store.events(job_id, after=cursor, limit=_PAGE)
        if page:
            return page, False
        job = self._store.get(job_id)
        return [], job.state.is_terminal and job.last_sequence <= cursor


async def _within(news: asyncio.Event, seconds: float) -> bool:
    """Wait for news; False on timeout."""
    try:
        await asyncio.wait_for(news.wait(), seconds)
    except TimeoutError:
        return False
    return True
