"""The job store as the API and the metrics see it: creates, reads, follows and counts jobs."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import delete, func, insert, literal, select
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from secateur_service.errors import NotReadyError, RequestIdReusedError
from secateur_service.jobs.access import OWNED, SqlAccess, is_due
from secateur_service.jobs.filters import ALL, NEWEST_FIRST, Filter, Order, Place
from secateur_service.jobs.job import Event, Job, NewJob
from secateur_service.jobs.listing import page
from secateur_service.jobs.rows import new_row, to_event, to_job
from secateur_service.jobs.schema import blocks, events, jobs
from secateur_service.jobs.states import JobState


class SqlJobs(SqlAccess):
    """`Jobs` in SQL."""

    def create(self, job: NewJob) -> Job:
        """Insert a job in state QUEUED with its first event; a known request id returns the first request's job.

        A retry starts with a copy of the other job's ledger.

        Raises:
            RequestIdReusedError: the known request had another digest.
        """
        try:
            return self._create(job)
        except IntegrityError:  # another connection inserted the same request id meanwhile
            known = None if job.request_id is None else self.find_request(job.request_id, job.request_digest)
            if known is None:
                raise
            return known

    def _create(self, job: NewJob) -> Job:
        with self._writing() as connection:
            if job.request_id is not None:
                known = _find_request(connection, job.request_id, job.request_digest)
                if known is not None:
                    return known
            now = self._now(connection)
            row = new_row(job, now)
            connection.execute(insert(jobs).values(row))
            if job.retry_of is not None:
                ledger = (blocks.c.index, blocks.c.attempt, blocks.c.record)
                inherited = select(literal(job.id), *ledger).where(blocks.c.job_id == job.retry_of)
                connection.execute(
                    insert(blocks).from_select(["job_id", *(column.name for column in ledger)], inherited)
                )
            created = self._hold(connection, row, now)
            created.accept()
            created.save()
            return created.snapshot()

    def find_request(self, request_id: str, request_digest: str | None) -> Job | None:
        """The job that an earlier request with this id created; None if there was none.

        Raises:
            RequestIdReusedError: that request had another digest.
        """
        with self._reading() as connection:
            return _find_request(connection, request_id, request_digest)

    def list_jobs(
        self, wanted: Filter = ALL, order: Order = NEWEST_FIRST, *, limit: int, after: Place | None = None
    ) -> tuple[list[Job], Place | None]:
        """A page of the jobs that are wanted, and the value of `after` for the next page (None after the last)."""
        with self._reading() as connection:
            return page(connection, self._database, wanted, order, limit=limit, after=after)

    def jobs_of_models(
        self, digests: Collection[str], *, except_for: Collection[str], limit: int
    ) -> tuple[list[Job], int]:
        """The newest jobs that have a report and one of these dense models, newest first, and how many are left out."""
        wanted = (jobs.c.model_digest.in_(digests), jobs.c.id.not_in(except_for))
        with self._reading() as connection:
            count = connection.scalar(select(func.count()).select_from(jobs).where(*wanted)) or 0
            query = select(jobs).where(*wanted).order_by(jobs.c.number.desc()).limit(limit)
            found = [to_job(row) for row in connection.execute(query).mappings()]
        return found, max(0, count - len(found))

    def request_cancel(self, job_id: str) -> Job:
        """QUEUED becomes CANCELLED, RUNNING becomes CANCELLING; any other state stays.

        A job whose manifest is committed stays too: publication won.

        Raises:
            NotFoundError: there is no job with that id.
        """
        with self._locked(job_id) as job:
            if job.manifest_sha256 is None:
                if job.state is JobState.QUEUED:
                    job.move(JobState.CANCELLED, "cancelled before it ran")
                elif job.state is JobState.RUNNING:
                    job.move(JobState.CANCELLING, "cancellation was asked for")
            job.save()
            return job.snapshot()

    def deletable(self, job_id: str) -> Job:
        """The job, if it may be deleted.

        Raises:
            NotFoundError: there is no job with that id.
            NotReadyError: it has not ended, or a retry of it that has not may use its finished blocks.
        """
        with self._reading() as connection:
            job = self.get(job_id)
            _check_deletable(connection, job.id, job.state)
            return job

    def delete(self, job_id: str) -> None:
        """Delete a job that has ended, with its events and its ledger.

        Raises:
            NotFoundError: there is no job with that id.
            NotReadyError: it has not ended, or a retry of it that has not may use its finished blocks.
        """
        with self._locked(job_id) as job:
            _check_deletable(job.connection, job.id, job.state)
            job.connection.execute(delete(jobs).where(jobs.c.id == job.id))

    def events(self, job_id: str, *, after: int, limit: int) -> list[Event]:
        """Events of a job with a larger sequence number, in order."""
        of_job = select(events).where(events.c.job_id == job_id, events.c.sequence > after)
        with self._reading() as connection:
            rows = connection.execute(of_job.order_by(events.c.sequence).limit(limit)).mappings().all()
        return [to_event(row) for row in rows]

    def events_since(self, position: int, *, limit: int) -> tuple[list[Event], int]:
        """Events of all jobs in the order of writing, for followers, and the position after them."""
        query = select(events).where(events.c.position > position).order_by(events.c.position).limit(limit)
        with self._reading() as connection:
            rows = connection.execute(query).mappings().all()
        return [to_event(row) for row in rows], rows[-1]["position"] if rows else position

    def position(self) -> int:
        """The start position for a follower that only wants events written from now on."""
        with self._reading() as connection:
            return connection.scalar(select(func.max(events.c.position))) or 0

    def await_change(self, token: int | None, seconds: float) -> int:
        """Wait at most `seconds` for a write since `token` was returned; returns the current token.

        One caller at a time.
        """
        return self._database.await_change(token, seconds)

    def count_by_state(self) -> dict[JobState, int]:
        """Number of jobs in each state, zero included."""
        with self._reading() as connection:
            rows = connection.execute(select(jobs.c.state, func.count()).group_by(jobs.c.state)).all()
        counted = {row[0]: row[1] for row in rows}
        return {state: counted.get(state.value, 0) for state in JobState}

    def oldest_queued_age_seconds(self) -> float:
        """How long the oldest due job has waited, whichever replica can run it; 0 if the queue is empty."""
        now = self._database.now
        return self._age(select(now - func.min(jobs.c.not_before)).where(is_due(now)))

    def max_heartbeat_age_seconds(self) -> float:
        """Age of the running jobs' oldest heartbeat; 0 if none is running. Attempts that are starting have none."""
        now = self._database.now
        return self._age(select(now - func.min(jobs.c.heartbeat)).where(jobs.c.state.in_(OWNED)))

    def _age(self, query: Any) -> float:
        with self._reading() as connection:
            milliseconds = connection.scalar(query)
        return max(0.0, (milliseconds or 0) / 1000)


def _check_deletable(connection: Connection, job_id: str, state: JobState) -> None:
    if not state.is_terminal:
        raise NotReadyError(
            f"job {job_id} is {state}; cancel it, and delete it once it has ended",
            reason="JOB_NOT_ENDED",
            metadata={"state": state.value},
        )
    line = [job_id]
    while line:
        retries = connection.execute(select(jobs.c.id, jobs.c.state).where(jobs.c.retry_of.in_(line))).all()
        for retry, its_state in retries:
            if not JobState(its_state).is_terminal:
                raise NotReadyError(
                    f"job {job_id} has finished blocks that its retry {retry} may use; delete it once that has ended",
                    reason="JOB_IN_USE",
                    metadata={"retry": retry},
                )
        line = [retry for retry, _ in retries]


def _find_request(connection: Connection, request_id: str, request_digest: str | None) -> Job | None:
    row = connection.execute(select(jobs).where(jobs.c.request_id == request_id)).mappings().first()
    if row is None:
        return None
    if row["request_digest"] != request_digest:
        raise RequestIdReusedError(
            f"request id {request_id} was used before with another request; choose a new one",
            metadata={"request_id": request_id},
        )
    return to_job(row)
