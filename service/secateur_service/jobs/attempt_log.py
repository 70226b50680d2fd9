"""The job store as a worker sees it: the lease of its attempt, and the log of what has been done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import delete, insert, select

from secateur_service.errors import CancelledError, NotReadyError
from secateur_service.jobs.access import SqlAccess
from secateur_service.jobs.events import WORKER_KINDS, block_body, bounded
from secateur_service.jobs.job import EventKind, JobResult
from secateur_service.jobs.port import Heartbeat
from secateur_service.jobs.schema import blocks
from secateur_service.jobs.states import JobState
from secateur_service.records.blocks import BlockRecord
from secateur_service.records.decoding import decode
from secateur_service.records.growth import growths_of_result, worst_growth


class SqlAttemptLog(SqlAccess):
    """`AttemptLog` in SQL, except `release`, which is in the queue."""

    def heartbeat(self, job_id: str, attempt: int, *, lease_seconds: float) -> Heartbeat:
        """Extend the lease (fenced). The first heartbeat marks the start of the attempt."""
        with self._owned(job_id, attempt) as job:
            job.beat(lease_seconds)
            job.save()
            return Heartbeat(cancel_requested=job.state is JobState.CANCELLING)

    def append(self, job_id: str, attempt: int, events: Sequence[tuple[EventKind, dict[str, Any]]]) -> None:
        """Append events (fenced); STAGE and PROGRESS also update the job. Long log texts are cut.

        Raises:
            ValueError: an event of a kind that is only written together with the change it records.
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
        """Record a block in the ledger, with its event (fenced); a repeated index replaces the entry.

        Repeating the same record changes nothing, so a caller that got no answer can retry.
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
        """Commit the manifest's digest (fenced). The first digest wins; returns the one that is valid.

        This is the point of no return: a later cancellation has no effect.

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
            job.set(
                manifest_sha256=result.manifest_sha256,
                result=asdict(result),
                model_digest=result.model_digest or None,
                worst_growth=worst_growth(job.resolved, growths_of_result(result)),
            )
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
