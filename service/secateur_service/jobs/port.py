"""What the service needs from a job store: jobs for the API and metrics, a queue for the dispatcher, a log for workers.

Every method is one transaction. A change to a job and the event that records it are written together. Methods that
name an attempt are *fenced*: they write only while that attempt owns the job and raise `FencedError` otherwise. All
times are the database's; callers pass durations. Every method raises `TransientError` with reason STORE_UNAVAILABLE
while the database does not answer, and `NotReadyError` with reason ILLEGAL_TRANSITION for a change of state that is
not in `states.TRANSITIONS`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from secateur_service.jobs.agents import AgentRecord
from secateur_service.jobs.filters import ALL, NEWEST_FIRST, Filter, Order, Place
from secateur_service.jobs.job import Event, EventKind, Failure, Job, JobResult, NewJob
from secateur_service.jobs.states import JobState
from secateur_service.records.blocks import BlockRecord
from secateur_service.records.needs import Capacity, Needs

HEARTBEATS_PER_LEASE = 3
"""How often a lease is extended within its duration."""

CLAIM_WINDOW = 64
"""A job that is at home where it is claimed goes before older ones, but passes none that came this many jobs before."""


@dataclass(frozen=True)
class Heartbeat:
    """Answer to a heartbeat."""

    cancel_requested: bool


class Reading(Protocol):
    """What every caller needs."""

    def get(self, job_id: str) -> Job:
        """Read a job.

        Raises:
            NotFoundError: there is no job with that id.
        """


class Releasing(Reading, Protocol):
    """What the dispatcher and the worker both do."""

    def release(
        self, job_id: str, attempt: int, failure: Failure, *, charged: bool = True, delay_seconds: float = 0
    ) -> Job:
        """End an attempt that has no result (fenced).

        A retryable failure requeues the job, which cannot be claimed before `delay_seconds` have passed, unless no
        charged attempt is left: then, and after any other failure, the job is FAILED. A job that is CANCELLING becomes
        CANCELLED instead.
        """


class Jobs(Reading, Protocol):
    """Jobs as their owners see them: created, read, followed, counted."""

    def create(self, job: NewJob) -> Job:
        """Insert a job in state QUEUED with its first event.

        A known request id returns the job of the first request. A retry starts with a copy of the other job's
        ledger.

        Raises:
            RequestIdReusedError: the known request had another digest.
        """

    def find_request(self, request_id: str, request_digest: str | None) -> Job | None:
        """The job that an earlier request with this id created; None if there was none.

        Raises:
            RequestIdReusedError: that request had another digest.
        """

    def list_jobs(
        self, wanted: Filter = ALL, order: Order = NEWEST_FIRST, *, limit: int, after: Place | None = None
    ) -> tuple[list[Job], Place | None]:
        """A page of the jobs that are wanted, and the value of `after` for the next page (None after the last)."""

    def jobs_of_models(
        self, digests: Collection[str], *, except_for: Collection[str], limit: int
    ) -> tuple[list[Job], int]:
        """The newest jobs that have a report and one of these dense models, newest first, and how many are left out.

        Args:
            digests: of dense models, as reports have them.
            except_for: ids of jobs that are known already.
            limit: the most jobs.
        """

    def request_cancel(self, job_id: str) -> Job:
        """QUEUED becomes CANCELLED, RUNNING becomes CANCELLING; any other state stays.

        A job whose manifest is committed stays too: publication won.

        Raises:
            NotFoundError: there is no job with that id.
        """

    def deletable(self, job_id: str) -> Job:
        """The job, if it may be deleted.

        Raises:
            NotFoundError: there is no job with that id.
            NotReadyError: it has not ended, or a retry of it that has not may use its finished blocks.
        """

    def delete(self, job_id: str) -> None:
        """Delete a job that has ended, with its events and its ledger.

        Raises:
            NotFoundError: there is no job with that id.
            NotReadyError: it has not ended, or a retry of it that has not may use its finished blocks.
        """

    def events(self, job_id: str, *, after: int, limit: int) -> list[Event]:
        """Events of a job with a larger sequence number, in order."""

    def events_since(self, position: int, *, limit: int) -> tuple[list[Event], int]:
        """Events of all jobs in the order of writing, for followers, and the position after them."""

    def position(self) -> int:
        """The start position for a follower that only wants events written from now on."""

    def await_change(self, token: int | None, seconds: float) -> int:
        """Wait at most `seconds` for a write since `token` was returned; returns the current token.

        One caller at a time.
        """

    def count_by_state(self) -> dict[JobState, int]:
        """Number of jobs in each state, zero included."""

    def oldest_queued_age_seconds(self) -> float:
        """How long the oldest due job has waited, whichever replica can run it; 0 if the queue is empty."""

    def max_heartbeat_age_seconds(self) -> float:
        """Age of the running jobs' oldest heartbeat; 0 if none is running. Attempts that are starting have none."""


class JobQueue(Releasing, Protocol):
    """Jobs as the dispatcher sees them: to start, and to watch until they end."""

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

    def waiting(self) -> list[tuple[Needs, int]]:
        """What the queued jobs that are due need, and how many jobs each time."""

    def keep_starting(self, job_id: str, attempt: int, *, lease_seconds: float) -> bool:
        """Extend the lease of an attempt whose worker has not yet sent its first heartbeat (fenced).

        Returns:
            False once the worker has sent one: it then keeps the lease itself, and this call leaves it unchanged.
        """

    def expire_leases(self) -> list[Job]:
        """Release every job whose lease has expired, with reason LEASE_EXPIRED; charged if its attempt had begun."""

    def expire_deadlines(self) -> list[Job]:
        """Fail every job past its deadline, unless its result is committed or it is being cancelled."""

    def expire_stalled(self, stall_seconds: float) -> list[Job]:
        """Release every running job that had no event for this long, as a charged failure with reason STALLED.

        An attempt that has not begun cannot stall.
        """


class Reasons(Protocol):
    """Why queued jobs wait although there may be free slots."""

    def explain_waiting(
        self, seen: Collection[Capacity], offered: Mapping[str, Capacity] = MappingProxyType({})
    ) -> int:
        """Write why queued jobs wait, each change with a line in the job's log; jobs that others change are left out.

        Args:
            seen: capacities of agents that count, see `needs.largest`.
            offered: of those that can be asked for, by class.

        Returns:
            The number of jobs that have another reason now, or none.
        """

    def unserved(self) -> list[tuple[Needs, int]]:
        """What the queued jobs need that have a reason to wait, and how many jobs each time."""


class AttemptLog(Releasing, Protocol):
    """A job as its worker sees it: a lease, and the log of what has been done."""

    def heartbeat(self, job_id: str, attempt: int, *, lease_seconds: float) -> Heartbeat:
        """Extend the lease (fenced). The first heartbeat marks the start of the attempt."""

    def append(self, job_id: str, attempt: int, events: Sequence[tuple[EventKind, dict[str, Any]]]) -> None:
        """Append events (fenced); STAGE and PROGRESS also update the job. Long log texts are cut.

        Raises:
            ValueError: a STATE or BLOCK event, which is only written together with the change it records.
        """

    def record_block(self, job_id: str, attempt: int, record: BlockRecord) -> None:
        """Record a block in the ledger, with its event (fenced); repeating the same record changes nothing."""

    def blocks(self, job_id: str) -> list[BlockRecord]:
        """The job's ledger, in ascending order of index."""

    def commit_manifest(self, job_id: str, attempt: int, sha256: str) -> str:
        """Commit the manifest's digest (fenced). The first digest wins; returns the one that is valid.

        This is the point of no return: a later cancellation has no effect.

        Raises:
            CancelledError: the cancellation came first.
        """

    def succeed(self, job_id: str, attempt: int, result: JobResult) -> None:
        """RUNNING becomes SUCCEEDED (fenced).

        Raises:
            NotReadyError: another manifest was committed as the job's result, or the job is being cancelled.
        """

    def cancelled(self, job_id: str, attempt: int) -> None:
        """CANCELLING becomes CANCELLED (fenced).

        Raises:
            NotReadyError: nobody asked for the cancellation.
        """


class Agents(Protocol):
    """Who runs jobs: agents, and servers with slots."""

    def announce(self, record: AgentRecord) -> None:
        """Write that an agent is there, and how it is; its heartbeat is the database's time."""

    def withdraw(self, agent_id: str) -> None:
        """Write that an agent has ended. It still counts among those that were seen, without slots."""

    def seen(self, since_seconds: float) -> list[AgentRecord]:
        """The agents that were heard of within this time, by id, also those that have ended."""

    def forget(self, older_than_seconds: float) -> int:
        """Remove those that were not heard of for this long; returns their number."""


class Leases(Protocol):
    """Leases on names: one of several replicas does what only one is to do."""

    def take(self, name: str, owner: str, seconds: float) -> bool:
        """Take or extend a lease for this long from now, by the database's clock; False while another has it."""

    def release(self, name: str, owner: str) -> None:
        """Give up a lease, if this owner has it."""


class JobStore(Jobs, JobQueue, Reasons, AttemptLog, Protocol):
    """The only shared state of the service."""

    @property
    def agents(self) -> Agents:
        """Who runs jobs."""

    @property
    def leases(self) -> Leases:
        """Leases on names."""

    def migrate(self) -> str | None:
        """Bring the schema up to date; harmless if it already is.

        Returns:
            The revision of a newer release, whose schema this one may use and leaves unchanged; else None.

        Raises:
            ValueError: the database is not a job store, or is one of a newer release that this one may not use.
        """

    def close(self) -> None:
        """Close all connections."""
