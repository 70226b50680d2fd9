"""A job inside a write transaction: its changes and the events that record them, written together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import insert, update
from sqlalchemy.engine import Connection

from secateur_service.errors import FencedError, NotReadyError
from secateur_service.jobs.events import state_body
from secateur_service.jobs.job import EventKind, Failure, Job
from secateur_service.jobs.rows import Row, run_deadline, to_job
from secateur_service.jobs.schema import events, jobs
from secateur_service.jobs.states import TRANSITIONS, JobState
from secateur_service.records.growth import growths_of_details, worst_growth
from secateur_service.records.result import MODEL_DIGEST

MAX_UNCHARGED_ATTEMPTS = 20
"""At most this many attempts of a job are free; later ones are charged, so that no job loops for ever."""

_OWNED = (JobState.RUNNING, JobState.CANCELLING)
_UNOWNED: Mapping[str, Any] = {"owner": None, "lease_end": None, "heartbeat": None, "stage": None}


class LockedJob:
    """One job whose row the transaction holds. Nothing is written before `save`."""

    def __init__(
        self, connection: Connection, row: Row, now: int, *, order_events: Callable[[Connection], None]
    ) -> None:
        """Take over a row that was selected for update.

        Args:
            connection: the transaction's connection.
            row: the job's row of `schema.jobs`.
            now: the transaction's time.
            order_events: called before events are written, see `Database.order_events`.
        """
        self.connection = connection
        self._row = dict(row)
        self._changes: dict[str, Any] = {}
        self._events: list[dict[str, Any]] = []
        self.now = now
        self._order_events = order_events

    @property
    def id(self) -> str:
        """The job's id."""
        return str(self._row["id"])

    @property
    def state(self) -> JobState:
        """The state, including changes made here."""
        return JobState(self._row["state"])

    @property
    def attempt(self) -> int:
        """The newest attempt."""
        return int(self._row["attempt"])

    @property
    def manifest_sha256(self) -> str | None:
        """The digest committed as the job's result; None if there is none yet."""
        value: str | None = self._row["manifest_sha256"]
        return value

    @property
    def resolved(self) -> Mapping[str, Any]:
        """The specification that runs."""
        found: Mapping[str, Any] = self._row["resolved"]
        return found

    def require_owner(self, attempt: int) -> None:
        """Enforce the fence: only the job's owner may write.

        Raises:
            FencedError: the attempt no longer owns the job, or never did.
        """
        if attempt != self.attempt or self.state not in _OWNED:
            raise FencedError(
                f"attempt {attempt} does not own job {self.id} (attempt {self.attempt}, {self.state}); write nothing"
            )

    def set(self, **values: Any) -> None:
        """Change columns."""
        self._row.update(values)
        self._changes.update(values)

    def add_event(self, kind: EventKind, body: Mapping[str, Any]) -> None:
        """Append an event with the next sequence number."""
        sequence = self._row["last_sequence"] + 1
        self.set(last_sequence=sequence, last_event_time=self.now)
        self._events.append(
            {
                "job_id": self.id,
                "sequence": sequence,
                "time": self.now,
                "attempt": self.attempt,
                "kind": kind.value,
                "body": dict(body),
            }
        )

    def move(self, state: JobState, message: str, failure: Failure | None = None) -> None:
        """Enter another state, with its event.

        Raises:
            NotReadyError: no transition leads there.
        """
        if state not in TRANSITIONS[self.state]:
            raise NotReadyError(f"job {self.id} is {self.state} and cannot become {state}", reason="ILLEGAL_TRANSITION")
        self.set(state=state.value, waiting=None)
        if state not in _OWNED:
            self.set(**_UNOWNED)
        if state.is_terminal:
            self.set(end_time=self.now)
        self.add_event(EventKind.STATE, state_body(state, message, failure))

    def accept(self) -> None:
        """Write the first event of a job that was just inserted."""
        self.add_event(EventKind.STATE, state_body(self.state, "accepted"))

    def claim(self, *, owner: str, lease_seconds: float) -> None:
        """Start the next attempt."""
        if self._row["start_time"] is None:
            self.set(start_time=self.now, run_deadline=run_deadline(self._row, self.now))
        self.set(attempt=self.attempt + 1, owner=owner, heartbeat=None)
        self.extend_lease(lease_seconds)
        self.move(JobState.RUNNING, f"attempt {self.attempt} started")

    @property
    def has_begun(self) -> bool:
        """Whether the attempt's worker has sent a heartbeat."""
        return self._row["heartbeat"] is not None

    def extend_lease(self, lease_seconds: float) -> None:
        """Set the lease to end this long from now."""
        self.set(lease_end=self.now + round(lease_seconds * 1000))

    def beat(self, lease_seconds: float) -> None:
        """Record a heartbeat of the worker."""
        if not self.has_begun:
            self.set(last_event_time=self.now)  # the stall timer starts now, however long the start took
        self.set(heartbeat=self.now)
        self.extend_lease(lease_seconds)

    def end_attempt(self, failure: Failure, *, charged: bool, delay_seconds: float) -> None:
        """Put the job back into the queue or end it, as `JobStore.release` says."""
        if self.state is JobState.CANCELLING:
            self.move(JobState.CANCELLED, f"stopped: {failure.message}")
            return
        charged = charged or self._row["uncharged_attempts"] >= MAX_UNCHARGED_ATTEMPTS
        counter = "charged_attempts" if charged else "uncharged_attempts"
        self.set(**{counter: self._row[counter] + 1})
        exhausted = self._row["charged_attempts"] >= self._row["max_attempts"]
        spared = frozenset(self._row["short_of"] or ())
        if failure.shortage is not None:
            self.set(short_of=sorted({*spared, failure.shortage}))
            # A killed worker may have been killed for another reason.
            exhausted = exhausted or (failure.shortage in spared and failure.reason != "WORKER_KILLED")
        if failure.retryable and not exhausted:
            self.set(not_before=self.now + round(delay_seconds * 1000))
            self.move(JobState.QUEUED, f"to be tried again: {failure.message}", failure)
        else:
            self.fail(failure)

    def fail(self, failure: Failure) -> None:
        """End the job."""
        # Only the failure of a job that published a report names the model, and has figures.
        self.set(
            failure=asdict(failure),
            model_digest=failure.details.get(MODEL_DIGEST),
            worst_growth=worst_growth(self.resolved, growths_of_details(failure.details)),
        )
        self.move(JobState.FAILED, failure.message, failure)

    def save(self) -> None:
        """Write the changes and events."""
        if self._changes:
            self.connection.execute(update(jobs).where(jobs.c.id == self.id).values(self._changes))
        if self._events:
            self._order_events(self.connection)
            self.connection.execute(insert(events), self._events)
        self._changes, self._events = {}, []

    def snapshot(self) -> Job:
        """The job as it is now."""
        return to_job(self._row)
