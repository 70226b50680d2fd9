"""A watch and a job that ends at the worst moment."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import Gauge
from sqlalchemy.engine import make_url

from secateur_service.api.thread_pool import ThreadPool
from secateur_service.api.watch import JobWatcher, WatchHub
from secateur_service.jobs.job import Event
from secateur_service.jobs.sqlite import SqliteDatabase
from secateur_service.jobs.store import SqlJobStore
from support.jobs import new_job, result


class EndsInBetween(SqlJobStore):
    """A store in which the job ends just after a reader was told that there is nothing new."""

    ended = False

    def events(self, job_id: str, *, after: int, limit: int) -> list[Event]:
        page = super().events(job_id, after=after, limit=limit)
        if not page and not self.ended:
            self.ended = True
            self.claim(owner="o", lease_seconds=60)
            self.succeed(job_id, 1, result())
        return page


async def test_events_written_between_two_reads_of_a_watch_are_not_lost(tmp_path: Path):
    store = EndsInBetween(SqliteDatabase(make_url(f"sqlite:///{tmp_path}/jobs.sqlite3")))
    store.migrate()
    job = store.create(new_job())
    pool = ThreadPool("test", threads=1)
    hub = WatchHub(max_watchers=1, gauge=Gauge("streams", "Open streams.", registry=None))
    watcher = JobWatcher(store, pool, hub, heartbeat_seconds=0.05)
    messages = [message async for message in watcher.watch(job.id, 0)]
    assert [message.sequence for message in messages if not message.HasField("heartbeat")] == [1, 2, 3]
    assert hub.watchers == 0
    pool.close()
    store.close()
