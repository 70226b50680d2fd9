"""The janitor: removes what ended jobs left behind, and finally the jobs themselves.

Results stay as long as their owner wants them. The janitor removes objects that no manifest names, unfinished uploads,
work directories on this machine and, long after the end, the job with its events and its ledger. Every replica has a
janitor; if two do the same work, no harm is done. An agent clears the work directories of its machine only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import Protocol

import structlog

from secateur_service.artifacts import ObjectStore
from secateur_service.artifacts.leftovers import remove_leftovers
from secateur_service.control.rounds import Rounds
from secateur_service.errors import NotFoundError, ServiceError, TransientError
from secateur_service.executors.port import WorkFolders
from secateur_service.jobs.job import Job
from secateur_service.jobs.port import Agents, Jobs, Reading
from secateur_service.records.result import Removed

# A worker that lost its job may still be uploading a shard; after this long it is gone.
_SETTLED_SECONDS = 3600.0
_AGENTS_SECONDS = 86_400.0  # operators may still want to know who was there

_log = structlog.get_logger(__name__)


class Retention(Protocol):
    """Which jobs in the store are due for cleanup. All times are the database's."""

    def unswept(self, *, succeeded_seconds: float, other_seconds: float) -> list[str]:
        """Jobs that ended at least this long ago and whose leftovers are not yet removed, oldest first.

        A job whose finished blocks a retry may use is left out until that retry is swept.
        """

    def mark_swept(self, job_id: str) -> None:
        """Record that nothing is left of the job but its result."""

    def forget(self, seconds: float, *, unsweepable: Collection[str] = ()) -> list[str]:
        """Delete jobs that ended at least this long ago and were swept, or cannot be; returns them."""


class Janitor:
    """Cleans up in rounds, in its own thread."""

    def __init__(
        self,
        store: Jobs,
        retention: Retention,
        folders: WorkFolders,
        open_results: Callable[[Job], ObjectStore],
        *,
        agents: Agents,
        leftovers_seconds: float,
        jobs_seconds: float,
        pause_seconds: float,
        on_round: Callable[[Removed], None] | None = None,
    ) -> None:
        """Prepare; nothing happens before `start` or `clean`.

        Args:
            store: the jobs.
            retention: which of them are due.
            folders: what workers left on this machine.
            open_results: opens the store that a job publishes to.
            agents: who runs jobs; those that are long gone are forgotten.
            leftovers_seconds: how long finished blocks of a failed or cancelled job are kept for a retry.
            jobs_seconds: how long a job is kept after its end; 0 for ever.
            pause_seconds: time between two rounds.
            on_round: called with what a round removed.
        """
        self._store = store
        self._retention = retention
        self._folders = folders
        self._open_results = open_results
        self._agents = agents
        self._leftovers_seconds = leftovers_seconds
        self._jobs_seconds = jobs_seconds
        self._pause_seconds = pause_seconds
        self._on_round = on_round
        self._rounds = Rounds("janitor", self._round)

    def start(self) -> None:
        """Start the first round."""
        self._rounds.start()

    def stop(self) -> None:
        """Start nothing more. Work that a slow object store holds up is left for the next start."""
        self._rounds.stop()

    def clean(self) -> Removed:
        """Run one round. A failure is logged and retried in the next round; the rest of this one continues."""
        removed = Removed()
        unsweepable: list[str] = []
        with _survived("find what is due"):
            for job_id in self._retention.unswept(
                succeeded_seconds=min(_SETTLED_SECONDS, self._leftovers_seconds), other_seconds=self._leftovers_seconds
            ):
                if self._rounds.is_stopping:
                    return removed
                with _survived("remove leftovers", job_id):
                    removed.leftovers += self._sweep(job_id, unsweepable)
        if self._jobs_seconds:
            with _survived("forget old jobs"):
                removed.jobs = len(self._retention.forget(self._jobs_seconds, unsweepable=unsweepable))
        with _survived("forget agents that are gone"):
            self._agents.forget(_AGENTS_SECONDS)
        clear_folders(self._store, self._folders)
        if removed.leftovers or removed.jobs:
            _log.info("cleaned up", leftovers=removed.leftovers, jobs_forgotten=removed.jobs)
        return removed

    def _round(self) -> float:
        removed = self.clean()
        if self._on_round is not None:
            self._on_round(removed)
        return self._pause_seconds

    def _sweep(self, job_id: str, unsweepable: list[str]) -> int:
        job = self._store.get(job_id)
        try:
            count = remove_leftovers(self._open_results(job), job.id, job.published_sha256)
        except TransientError:
            raise
        except ServiceError:
            unsweepable.append(job_id)
            raise
        self._retention.mark_swept(job_id)
        if count:
            _log.info("leftovers removed", job=job_id, state=job.state, count=count)
        return count


def clear_folders(store: Reading, folders: WorkFolders) -> None:
    """Remove what jobs left on this machine that have ended, here or elsewhere, or are no longer known."""
    with _survived("look for work directories"):
        for job_id in folders.job_ids():
            with _survived("remove a work directory", job_id):
                _clear_folder(store, folders, job_id)


def _clear_folder(store: Reading, folders: WorkFolders, job_id: str) -> None:
    try:
        ended = store.get(job_id).state.is_terminal
    except NotFoundError:
        folders.forget(job_id)
        return
    if ended:
        folders.discard(job_id)


@contextlib.contextmanager
def _survived(action: str, job_id: str | None = None) -> Iterator[None]:
    """Log any failure and carry on; the next round tries again."""
    context = {} if job_id is None else {"job": job_id}
    try:
        yield
    except ServiceError as error:
        _log.warning("the janitor could not " + action, reason=error.reason, error=error.message, **context)
    except Exception:  # noqa: BLE001 - a defect here must not end the only loop that cleans up
        _log.exception("the janitor could not " + action, **context)
