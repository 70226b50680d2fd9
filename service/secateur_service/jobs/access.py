"""Read and write transactions of the job store, and a job locked inside one.

Statements are portable between SQLite and PostgreSQL; each database's specifics (how a write transaction begins, its
clock, how to notice writes) are in its own module. Statements include row locks and SKIP LOCKED although SQLite, which
has one writer at a time, omits them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sqlalchemy import ColumnElement, and_, literal, select
from sqlalchemy.engine import Connection

from secateur_service.errors import FencedError, NotFoundError
from secateur_service.jobs.database import Database, transaction
from secateur_service.jobs.job import Job
from secateur_service.jobs.locked_job import LockedJob
from secateur_service.jobs.rows import Row, to_job
from secateur_service.jobs.schema import jobs
from secateur_service.jobs.states import JobState

OWNED = (JobState.RUNNING.value, JobState.CANCELLING.value)
"""States in which an attempt owns its job."""

# Written into the statement: SQLite looks for an index of queued jobs before it knows the values of parameters.
IS_QUEUED = jobs.c.state == literal(JobState.QUEUED.value, literal_execute=True)


class SqlAccess:
    """What the parts of the store share."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, job_id: str) -> Job:
        """Read a job.

        Raises:
            NotFoundError: there is no job with that id.
        """
        with self._reading() as connection:
            row = connection.execute(select(jobs).where(jobs.c.id == job_id)).mappings().first()
        if row is None:
            raise _not_found(job_id)
        return to_job(row)

    def _reading(self) -> contextlib.AbstractContextManager[Connection]:
        return transaction(self._database.reader)

    def _writing(self) -> contextlib.AbstractContextManager[Connection]:
        return transaction(self._database.writer)

    @contextlib.contextmanager
    def _locked(self, job_id: str) -> Iterator[LockedJob]:
        with self._writing() as connection:
            row = connection.execute(select(jobs).where(jobs.c.id == job_id).with_for_update()).mappings().first()
            if row is None:
                raise _not_found(job_id)
            yield self._hold(connection, row, self._now(connection))

    @contextlib.contextmanager
    def _owned(self, job_id: str, attempt: int) -> Iterator[LockedJob]:
        try:
            with self._locked(job_id) as job:
                job.require_owner(attempt)
                yield job
        except NotFoundError as error:
            raise FencedError(f"job {job_id} was deleted; write nothing more") from error

    def _hold(self, connection: Connection, row: Row, now: int) -> LockedJob:
        return LockedJob(connection, row, now, order_events=self._database.order_events)

    def _now(self, connection: Connection) -> int:
        return int(connection.execute(select(self._database.now)).scalar_one())


def is_due(now: ColumnElement[int]) -> ColumnElement[bool]:
    """The condition for a job that may be claimed."""
    return and_(IS_QUEUED, jobs.c.not_before <= now)


def _not_found(job_id: str) -> NotFoundError:
    return NotFoundError(f"there is no job {job_id}", metadata={"job": job_id})
