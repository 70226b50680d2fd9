"""Which ended jobs are due for cleanup: the janitor's view of the job store, in SQL."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import ColumnElement, and_, delete, exists, or_, select, update

from secateur_service.jobs.database import Database, transaction
from secateur_service.jobs.schema import jobs
from secateur_service.jobs.states import JobState


class SqlRetention:
    """`janitor.Retention` in SQL.

    Any method raises `TransientError` with reason STORE_UNAVAILABLE while the database does not answer.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def unswept(self, *, succeeded_seconds: float, other_seconds: float) -> list[str]:
        """Jobs that ended at least this long ago and whose leftovers are not yet removed, oldest first.

        A job whose finished blocks a retry may use is left out until that retry is swept.
        """
        retry = jobs.alias("retry")
        is_needed = exists().where(retry.c.retry_of == jobs.c.id, retry.c.swept_time.is_(None))
        succeeded = jobs.c.state == JobState.SUCCEEDED.value
        due = or_(
            and_(succeeded, self._ended_before(succeeded_seconds)),
            and_(~succeeded, self._ended_before(other_seconds)),
        )
        query = select(jobs.c.id).where(jobs.c.swept_time.is_(None), due, ~is_needed).order_by(jobs.c.number)
        with transaction(self._database.reader) as connection:
            return list(connection.scalars(query))

    def mark_swept(self, job_id: str) -> None:
        """Record that nothing is left of the job but its result."""
        with transaction(self._database.writer) as connection:
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(swept_time=self._database.now))

    def forget(self, seconds: float, *, unsweepable: Collection[str] = ()) -> list[str]:
        """Delete jobs that ended at least this long ago, with events and ledgers, each in its own transaction.

        Args:
            seconds: time since the end.
            unsweepable: jobs to delete although they were not swept.

        Returns:
            The jobs that were deleted.
        """
        swept = or_(jobs.c.swept_time.is_not(None), jobs.c.id.in_(unsweepable))
        with transaction(self._database.reader) as connection:
            due = list(connection.scalars(select(jobs.c.id).where(swept, self._ended_before(seconds))))
        for job_id in due:
            with transaction(self._database.writer) as connection:
                connection.execute(delete(jobs).where(jobs.c.id == job_id))
        return due

    def _ended_before(self, seconds: float) -> ColumnElement[bool]:
        return jobs.c.end_time < self._database.now - round(seconds * 1000)
