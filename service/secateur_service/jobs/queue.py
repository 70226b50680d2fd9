"""The job store as the dispatcher sees it: jobs to start, and to give up when their time is over."""

from __future__ import annotations

from collections.abc import Callable, Collection

from sqlalchemy import ColumnElement, Select, and_, func, select, true
from sqlalchemy.engine import Connection

from secateur_service.jobs.access import IS_QUEUED, OWNED, SqlAccess, is_due
from secateur_service.jobs.job import Failure, Job, model_reference
from secateur_service.jobs.locked_job import LockedJob
from secateur_service.jobs.port import CLAIM_WINDOW
from secateur_service.jobs.rows import NEED_COLUMNS, to_needs
from secateur_service.jobs.schema import jobs
from secateur_service.jobs.states import JobState
from secateur_service.records.needs import Capacity, Needs
from secateur_service.spec import SPEC_FORMAT

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

# By number would be the same. But the index of numbers is one of all jobs, and PostgreSQL would go through it.
_OLDEST_FIRST = (jobs.c.create_time, jobs.c.number)


class SqlQueue(SqlAccess):
    """`JobQueue` in SQL."""

    def claim(
        self,
        *,
        owner: str,
        lease_seconds: float,
        capacity: Capacity | None = None,
        held: Collection[str] = (),
        models: Collection[str] = (),
    ) -> Job | None:
        """Take a queued job that is due: RUNNING, attempt + 1, leased to `owner`. None if there is none.

        It is the oldest one that fits, unless one of the next `CLAIM_WINDOW` that were created is at home here. Jobs
        that a newer release admitted in a format unknown to this one are left to its replicas.

        Args:
            owner: names whoever claims, for operators.
            lease_seconds: the lease until the first heartbeat.
            capacity: of the slot that the job is for; None for any job.
            held: jobs whose work directory is here.
            models: references of models that are here, see `job.model_reference`.
        """
        fitting = and_(is_due(self._database.now), jobs.c.spec_format <= SPEC_FORMAT, _fits(capacity))
        first = select(jobs.c.number).where(fitting).order_by(*_OLDEST_FIRST).limit(1)
        with self._reading() as connection:  # an idle dispatcher must not keep writers waiting
            if capacity is not None and connection.execute(_least(capacity)).first() is None:
                return None
            oldest = connection.scalar(first)
            if oldest is None:
                return None
            at_home = _at_home(connection, fitting, oldest, held, models) if held or models else None
        with self._writing() as connection:
            number = None
            if at_home is not None:
                it = select(jobs.c.number).where(fitting, jobs.c.number == at_home)
                number = connection.scalar(it.with_for_update(skip_locked=True))
            if number is None:
                number = connection.scalar(first.with_for_update(skip_locked=True))
            if number is None:
                return None
            row = connection.execute(select(jobs).where(jobs.c.number == number)).mappings().one()
            job = self._hold(connection, row, self._now(connection))
            job.claim(owner=owner, lease_seconds=lease_seconds)
            job.save()
            return job.snapshot()

    def waiting(self) -> list[tuple[Needs, int]]:
        """What the queued jobs that are due need, and how many jobs each time."""
        count = func.count().label("count")
        query = select(*NEED_COLUMNS, count).where(is_due(self._database.now)).group_by(*NEED_COLUMNS)
        with self._reading() as connection:
            return [(to_needs(row), row["count"]) for row in connection.execute(query).mappings()]

    def keep_starting(self, job_id: str, attempt: int, *, lease_seconds: float) -> bool:
        """Extend the lease of an attempt whose worker has not yet sent its first heartbeat (fenced).

        Returns:
            False once the worker has sent one: it then keeps the lease itself, and this call leaves it unchanged.
        """
        with self._owned(job_id, attempt) as job:
            if job.has_begun:
                return False
            job.extend_lease(lease_seconds)
            job.save()
            return True

    def release(
        self, job_id: str, attempt: int, failure: Failure, *, charged: bool = True, delay_seconds: float = 0
    ) -> Job:
        """End an attempt that has no result (fenced).

        A retryable failure requeues the job, which cannot be claimed before `delay_seconds` have passed, unless no
        charged attempt is left: then, and after any other failure, the job is FAILED. A job that is CANCELLING becomes
        CANCELLED instead. Only `MAX_UNCHARGED_ATTEMPTS` attempts of a job stay uncharged.
        """
        with self._owned(job_id, attempt) as job:
            job.end_attempt(failure, charged=charged, delay_seconds=delay_seconds)
            job.save()
            return job.snapshot()

    def expire_leases(self) -> list[Job]:
        """Release every job whose lease has expired, with reason LEASE_EXPIRED; charged if its attempt had begun."""
        expired = and_(jobs.c.state.in_(OWNED), jobs.c.lease_end < self._database.now)
        return self._change_all(
            expired, lambda job: job.end_attempt(_lease_expired(job), charged=job.has_begun, delay_seconds=0)
        )

    def expire_deadlines(self) -> list[Job]:
        """Fail every job past its deadline, unless its result is committed or it is being cancelled."""
        now, uncommitted = self._database.now, jobs.c.manifest_sha256.is_(None)
        waiting = and_(jobs.c.state == JobState.QUEUED.value, jobs.c.start_time.is_(None), jobs.c.queue_deadline < now)
        running = and_(jobs.c.state.in_((JobState.QUEUED.value, JobState.RUNNING.value)), jobs.c.run_deadline < now)
        return [
            *self._change_all(waiting, lambda job: job.fail(_QUEUED_TOO_LONG)),
            *self._change_all(and_(running, uncommitted), lambda job: job.fail(_RAN_TOO_LONG)),
        ]

    def expire_stalled(self, stall_seconds: float) -> list[Job]:
        """Release every running job that had no event for this long, as a charged failure with reason STALLED.

        An attempt that has not begun cannot stall.
        """
        since = self._database.now - round(stall_seconds * 1000)
        begun = and_(jobs.c.state == JobState.RUNNING.value, jobs.c.heartbeat.is_not(None))
        stalled = and_(begun, jobs.c.last_event_time < since)
        failure = Failure("STALLED", f"the job made no progress for {stall_seconds:g} s", retryable=True)
        return self._change_all(stalled, lambda job: job.end_attempt(failure, charged=True, delay_seconds=0))

    def _change_all(self, which: ColumnElement[bool], change: Callable[[LockedJob], None]) -> list[Job]:
        """Change jobs that nobody else is changing, oldest first."""
        query = select(jobs).where(which)
        with self._reading() as connection:  # an idle dispatcher must not keep writers waiting
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


def _fits(capacity: Capacity | None) -> ColumnElement[bool]:
    """`Needs.fits` as a condition."""
    if capacity is None:
        return true()
    host = jobs.c.need_host_beside_device_bytes if capacity.devices else jobs.c.need_host_bytes
    compared = [host <= capacity.host_bytes, jobs.c.need_disk_bytes <= capacity.disk_bytes]
    if capacity.devices and capacity.device_bytes:
        compared.append(jobs.c.need_device_bytes <= capacity.device_bytes)
    return and_(*compared)


def _least(capacity: Capacity) -> Select[tuple[int]]:
    """Any queued job that fits. It is looked for in the order of needs, so that where nothing fits, little is read."""
    order = jobs.c.need_device_bytes if capacity.devices else jobs.c.need_host_bytes
    return select(order).where(IS_QUEUED, _fits(capacity)).order_by(order).limit(1)


def _at_home(
    connection: Connection, fitting: ColumnElement[bool], oldest: int, held: Collection[str], models: Collection[str]
) -> int | None:
    """The first job soon after the oldest whose work or model is here; None if there is none."""
    soon_after = and_(jobs.c.number >= oldest, jobs.c.number < oldest + CLAIM_WINDOW)
    query = select(jobs.c.number, jobs.c.id, jobs.c.resolved["model"]).where(fitting, soon_after)
    rows = connection.execute(query.order_by(jobs.c.number)).all()
    of_work = (number for number, job_id, _ in rows if job_id in held)
    of_model = (number for number, _, model in rows if model_reference(model) in models)
    return next(of_work, None) or next(of_model, None)


def _lease_expired(job: LockedJob) -> Failure:
    if job.has_begun:
        what = "was not heard of until its lease ended; its machine or process is gone or stuck"
    else:
        what = "had not begun when its lease ended; the server that started it is gone or stuck"
    return Failure("LEASE_EXPIRED", f"attempt {job.attempt} {what}", retryable=True)
