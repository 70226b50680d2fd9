"""The job store in SQL: jobs, their events and their block ledgers.

Statements are portable between SQLite and PostgreSQL; what is particular to a database (how a writing transaction
begins, its clock, how to see that somebody wrote) is in its own module. Row locks and SKIP LOCKED are part of the
statements although SQLite, which has one writer at a time, leaves them out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from alembic.util.exc import CommandError
from sqlalchemy import ColumnElement, and_, delete, func, insert, literal, select
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import DatabaseError, IntegrityError

from secateur_service.errors import CancelledError, FencedError, NotFoundError, NotReadyError, RequestIdReusedError
from secateur_service.jobs.database import Database, answering, transaction
from secateur_service.jobs.events import WORKER_KINDS, block_body, bounded
from secateur_service.jobs.job import Event, EventKind, Failure, Job, JobResult, NewJob
from secateur_service.jobs.locked_job import LockedJob
from secateur_service.jobs.migration import downgrade, upgrade
from secateur_service.jobs.port import Heartbeat
from secateur_service.jobs.retention import SqlRetention
from secateur_service.jobs.rows import Row, new_row, to_event, to_job
from secateur_service.jobs.schema import blocks, events, jobs
from secateur_service.jobs.sqlite import SqliteDatabase
from secateur_service.jobs.states import JobState
from secateur_service.records.blocks import BlockRecord
from secateur_service.records.decoding import decode
from secateur_service.spec import SPEC_FORMAT

_OWNED = (JobState.RUNNING.value, JobState.CANCELLING.value)

_QUEUED_TOO_LONG = Failure(
    "QUEUE_DEADLINE_EXCEEDED",
    "no worker was free within execution.queue_deadline_seconds; submit it again later, or with more",
    retryable=False,
)
_RAN_TOO_LONG = Failure(
    "RUN_DEADLINE_EXCEEDED",
    "the job had not ended within execution.run_deadline_seconds, over all attempts; submit it again with more",
    retryable=False,
)


def open_job_store(database_url: str) -> SqlJobStore:
    """The store behind an SQLAlchemy URL. The schema must be there: call `migrate` once, in the server.

    Raises:
        ValueError: a database that is not supported.
    """
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite":
        return SqlJobStore(SqliteDatabase(url))
    if url.get_backend_name() == "postgresql":
        try:
            from secateur_service.jobs.postgresql import PostgresqlDatabase
        except ImportError as error:
            raise ValueError(f"PostgreSQL needs a driver: pip install 'secateur[postgres]' ({error})") from error
        return SqlJobStore(PostgresqlDatabase(url))
    raise ValueError(
        f"database_url names {url.get_backend_name()}, which is not supported; use "
        "sqlite:////absolute/path/secateur.sqlite3 or postgresql://user:password@host/database"
    )


class SqlJobStore:
    """`JobStore` in SQL; safe to be used by several threads and processes.

    Any method raises `TransientError` with reason STORE_UNAVAILABLE while the database does not answer.

    Attributes:
        retention: what of the jobs is due to go.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.retention = SqlRetention(database)

    def migrate(self, *, back_to: str | None = None) -> str | None:
        """Bring the schema up to date; harmless where it is. Several processes may call it at once.

        Args:
            back_to: instead, undo the migrations after this revision; `base` removes everything.

        Returns:
            The revision of a newer release, whose schema this one may use and has left as it is; else None.

        Raises:
            ValueError: what is there is no job store, or one of a newer release that this one may not use.
        """
        try:
            with answering(), self._database.migrating() as connection:
                if back_to is None:
                    return upgrade(connection)
                downgrade(connection, back_to)
                return None
        except DatabaseError as error:
            raise ValueError(f"database_url is no job store: {error.orig}; name another database") from error
        except CommandError as error:
            raise ValueError(f"the job store cannot be migrated: {error}") from error

    def create(self, job: NewJob) -> Job:
        """Insert a job in state QUEUED with its first event; a known request id returns the first request's job.

        A retry begins with a copy of the other job's ledger.

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
        """The job that an earlier request with this id created; None when there was none.

        Raises:
            RequestIdReusedError: that request had another digest.
        """
        with self._reading() as connection:
            return _find_request(connection, request_id, request_digest)

    def get(self, job_id: str) -> Job:
        """Read a job.

        Raises:
            NotFoundError: there is none of that id.
        """
        with self._reading() as connection:
            row = connection.execute(select(jobs).where(jobs.c.id == job_id)).mappings().first()
        if row is None:
            raise _not_found(job_id)
        return to_job(row)

    def list_jobs(
        self, *, limit: int, before: int | None = None, states: Collection[JobState] = ()
    ) -> tuple[list[Job], int | None]:
        """A page of jobs, newest first, and what `before` is for the page after it (None on the last)."""
        query = select(jobs).order_by(jobs.c.number.desc()).limit(limit + 1)
        if before is not None:
            query = query.where(jobs.c.number < before)
        if states:
            query = query.where(jobs.c.state.in_([state.value for state in states]))
        with self._reading() as connection:
            rows = connection.execute(query).mappings().all()
        page = [to_job(row) for row in rows[:limit]]
        more = len(rows) > limit and limit > 0
        return page, rows[limit - 1]["number"] if more else None

    def request_cancel(self, job_id: str) -> Job:
        """QUEUED becomes CANCELLED, RUNNING becomes CANCELLING, all else stays.

        So does a job whose manifest is committed: the cancellation lost against the publication.

        Raises:
            NotFoundError: there is none of that id.
        """
        with self._locked(job_id) as job:
            if job.manifest_sha256 is None:
                if job.state is JobState.QUEUED:
                    job.move(JobState.CANCELLED, "cancelled before it ran")
                elif job.state is JobState.RUNNING:
                    job.move(JobState.CANCELLING, "cancellation was asked for")
            job.save()
            return job.snapshot()

    def claim(self, *, owner: str, lease_seconds: float) -> Job | None:
        """Take the oldest queued job that is due: RUNNING, attempt + 1, leased to `owner`. None when there is none.

        What a newer release admitted is left to its replicas where this one does not know the format.
        """
        due = select(jobs).where(_due(self._database.now), jobs.c.spec_format <= SPEC_FORMAT)
        due = due.order_by(jobs.c.number).limit(1)
        with self._reading() as connection:  # an idle dispatcher shall not keep writers waiting
            if connection.execute(due).first() is None:
                return None
        with self._writing() as connection:
            row = connection.execute(due.with_for_update(skip_locked=True)).mappings().first()
            if row is None:
                return None
            job = self._hold(connection, row, self._now(connection))
            job.claim(owner=owner, lease_seconds=lease_seconds)
            job.save()
            return job.snapshot()

    def keep_starting(self, job_id: str, attempt: int, *, lease_seconds: float) -> bool:
        """Extend the lease of an attempt whose worker is still to send its first heartbeat (fenced).

        Returns:
            False once the worker has sent one: the lease is its own business then, and stays as it is.
        """
        with self._owned(job_id, attempt) as job:
            if job.has_begun:
                return False
            job.extend_lease(lease_seconds)
            job.save()
            return True

    def heartbeat(self, job_id: str, attempt: int, *, lease_seconds: float) -> Heartbeat:
        """Extend the lease (fenced). The first heartbeat is the attempt's beginning."""
        with self._owned(job_id, attempt) as job:
            job.beat(lease_seconds)
            job.save()
            return Heartbeat(cancel_requested=job.state is JobState.CANCELLING)

    def append(self, job_id: str, attempt: int, events: Sequence[tuple[EventKind, dict[str, Any]]]) -> None:
        """Append events (fenced); STAGE and PROGRESS also update the job. Long log texts are cut.

        Raises:
            ValueError: an event of a kind that only comes with the change it tells of.
        """
        for kind, _body in events:
            if kind not in WORKER_KINDS:
                raise ValueError(
                    f"{kind} events are written by the store itself; call the method that makes the change"
                )
        with self._owned(job_id, attempt) as job:
            for kind, body in events:
                if kind is EventKind.STAGE:
                    job.set(stage=body["stage"])
                elif kind is EventKind.PROGRESS:
                    job.set(progress=body)
                job.add_event(kind, bounded(body) if kind is EventKind.LOG else body)
            job.save()

    def record_block(self, job_id: str, attempt: int, record: BlockRecord) -> None:
        """Enter a block into the ledger, with its event (fenced); a repeated index replaces the entry.

        The same record again changes nothing, for whoever got no answer asks again.
        """
        of_block = (blocks.c.job_id == job_id, blocks.c.index == record.index)
        with self._owned(job_id, attempt) as job:
            known = job.connection.scalar(select(blocks.c.record).where(*of_block, blocks.c.attempt == attempt))
            if known is not None and decode(BlockRecord, known) == record:
                return
            entry = {"job_id": job_id, "index": record.index, "attempt": attempt, "record": asdict(record)}
            job.connection.execute(delete(blocks).where(*of_block))
            job.connection.execute(insert(blocks).values(entry))
            job.add_event(EventKind.BLOCK, block_body(record))
            job.save()

    def blocks(self, job_id: str) -> list[BlockRecord]:
        """The job's ledger, in ascending order of index."""
        query = select(blocks.c.record).where(blocks.c.job_id == job_id).order_by(blocks.c.index)
        with self._reading() as connection:
            return [decode(BlockRecord, record) for record in connection.scalars(query)]

    def commit_manifest(self, job_id: str, attempt: int, sha256: str) -> str:
        """Name the manifest's digest (fenced). The first digest named wins; returns the one that holds.

        This is the point of no return: a cancellation that comes later leaves the job as it is.

        Raises:
            CancelledError: the cancellation came first.
        """
        with self._owned(job_id, attempt) as job:
            if job.state is JobState.CANCELLING:
                raise CancelledError("the job was cancelled before its result was committed")
            if job.manifest_sha256 is None:
                job.set(manifest_sha256=sha256)
                job.save()
            return job.manifest_sha256 or sha256

    def succeed(self, job_id: str, attempt: int, result: JobResult) -> None:
        """RUNNING becomes SUCCEEDED (fenced).

        Raises:
            NotReadyError: another manifest was committed as the job's result, or the job is being cancelled.
        """
        with self._owned(job_id, attempt) as job:
            if job.manifest_sha256 not in (None, result.manifest_sha256):
                raise NotReadyError(
                    f"job {job_id} has committed manifest {job.manifest_sha256}, not {result.manifest_sha256}",
                    reason="OTHER_MANIFEST_COMMITTED",
                )
            job.set(manifest_sha256=result.manifest_sha256, result=asdict(result))
            job.move(JobState.SUCCEEDED, "published")
            job.save()

    def cancelled(self, job_id: str, attempt: int) -> None:
        """CANCELLING becomes CANCELLED (fenced).

        Raises:
            NotReadyError: nobody asked for the cancellation.
        """
        with self._owned(job_id, attempt) as job:
            job.move(JobState.CANCELLED, "stopped as asked")
            job.save()

    def release(
        self, job_id: str, attempt: int, failure: Failure, *, charged: bool = True, delay_seconds: float = 0
    ) -> Job:
        """End an attempt that has no result (fenced).

        A retryable failure puts the job back into the queue, not to be claimed before `delay_seconds` have passed,
        unless no charged attempt is left: then, and for any other failure, the job is FAILED. A job that is
        CANCELLING becomes CANCELLED instead. Only `MAX_UNCHARGED_ATTEMPTS` attempts of a job stay uncharged.
        """
        with self._owned(job_id, attempt) as job:
            job.end_attempt(failure, charged=charged, delay_seconds=delay_seconds)
            job.save()
            return job.snapshot()

    def expire_leases(self) -> list[Job]:
        """Release every job whose lease has run out, with reason LEASE_EXPIRED; charged where its attempt had begun."""
        expired = and_(jobs.c.state.in_(_OWNED), jobs.c.lease_end < self._database.now)
        return self._change_all(
            expired, lambda job: job.end_attempt(_lease_expired(job), charged=job.has_begun, delay_seconds=0)
        )

    def expire_deadlines(self) -> list[Job]:
        """Fail every job whose time is over, unless its result is committed or it is being cancelled."""
        now, uncommitted = self._database.now, jobs.c.manifest_sha256.is_(None)
        waiting = and_(jobs.c.state == JobState.QUEUED.value, jobs.c.start_time.is_(None), jobs.c.queue_deadline < now)
        running = and_(jobs.c.state.in_((JobState.QUEUED.value, JobState.RUNNING.value)), jobs.c.run_deadline < now)
        return [
            *self._change_all(waiting, lambda job: job.fail(_QUEUED_TOO_LONG)),
            *self._change_all(and_(running, uncommitted), lambda job: job.fail(_RAN_TOO_LONG)),
        ]

    def expire_stalled(self, stall_seconds: float) -> list[Job]:
        """Release every running job that had no event for so long, as a charged failure with reason STALLED.

        An attempt that has not begun cannot stall.
        """
        since = self._database.now - round(stall_seconds * 1000)
        begun = and_(jobs.c.state == JobState.RUNNING.value, jobs.c.heartbeat.is_not(None))
        stalled = and_(begun, jobs.c.last_event_time < since)
        failure = Failure("STALLED", f"nothing was heard of the work for {stall_seconds:g} s", retryable=True)
        return self._change_all(stalled, lambda job: job.end_attempt(failure, charged=True, delay_seconds=0))

    def _change_all(self, which: ColumnElement[bool], change: Callable[[LockedJob], None]) -> list[Job]:
        """Change jobs that nobody else is changing, oldest first."""
        query = select(jobs).where(which)
        with self._reading() as connection:  # an idle dispatcher shall not keep writers waiting
            if connection.execute(query.limit(1)).first() is None:
                return []
        changed = []
        with self._writing() as connection:
            rows = connection.execute(query.order_by(jobs.c.number).with_for_update(skip_locked=True)).mappings()
            for row in rows.all():
                job = self._hold(connection, row, self._now(connection))
                change(job)
                job.save()
                changed.append(job.snapshot())
        return changed

    def events(self, job_id: str, *, after: int, limit: int) -> list[Event]:
        """Events of a job with a larger sequence number, in order."""
        of_job = select(events).where(events.c.job_id == job_id, events.c.sequence > after)
        with self._reading() as connection:
            rows = connection.execute(of_job.order_by(events.c.sequence).limit(limit)).mappings().all()
        return [to_event(row) for row in rows]

    def events_since(self, position: int, *, limit: int) -> tuple[list[Event], int]:
        """Events of all jobs in the order of their writing, for followers; also the position after them."""
        query = select(events).where(events.c.position > position).order_by(events.c.position).limit(limit)
        with self._reading() as connection:
            rows = connection.execute(query).mappings().all()
        return [to_event(row) for row in rows], rows[-1]["position"] if rows else position

    def position(self) -> int:
        """Where a follower starts that wants only what is written from now on."""
        with self._reading() as connection:
            return connection.scalar(select(func.max(events.c.position))) or 0

    def await_change(self, token: int | None, seconds: float) -> int:
        """Wait until somebody has written since `token` was returned, at most so long; the token of what is there now.

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
        """How long the oldest job that is due has waited, whoever can run it; 0 when the queue is empty."""
        now = self._database.now
        return self._age(select(now - func.min(jobs.c.not_before)).where(_due(now)))

    def max_heartbeat_age_seconds(self) -> float:
        """Age of the oldest heartbeat of the running jobs; 0 when none runs. Attempts that start have none."""
        now = self._database.now
        return self._age(select(now - func.min(jobs.c.heartbeat)).where(jobs.c.state.in_(_OWNED)))

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

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

    def _age(self, query: Any) -> float:
        with self._reading() as connection:
            milliseconds = connection.scalar(query)
        return max(0.0, (milliseconds or 0) / 1000)


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


def _due(now: ColumnElement[int]) -> ColumnElement[bool]:
    return and_(jobs.c.state == JobState.QUEUED.value, jobs.c.not_before <= now)


def _not_found(job_id: str) -> NotFoundError:
    return NotFoundError(f"there is no job {job_id}", metadata={"job": job_id})


def _lease_expired(job: LockedJob) -> Failure:
    if job.has_begun:
        what = "was not heard of until its lease ended; its machine or process is gone or stuck"
    else:
        what = "had not begun when its lease ended; the server that started it is gone or stuck"
    return Failure("LEASE_EXPIRED", f"attempt {job.attempt} {what}", retryable=True)
