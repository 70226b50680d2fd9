"""The folder of a job's unfinished work: finished blocks, and what its attempts printed.

A job that is put back into the queue finds its blocks there. Once it has ended nobody needs them, whole checkpoints,
any more; the logs stay, because they tell why it ended.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import structlog

from secateur_service.executors.locks import is_free

_log = structlog.get_logger(__name__)


def work_directory(data_dir: Path, job_id: str) -> Path:
    """The folder; a worker holds the lock of the folder itself."""
    return data_dir / "work" / job_id


def attempt_log(data_dir: Path, job_id: str, attempt: int) -> Path:
    """What the worker of an attempt prints."""
    return work_directory(data_dir, job_id) / f"attempt-{attempt}.log"


def discard_work(workdir: Path) -> None:
    """Remove all but the logs; what cannot be removed is logged and stays."""
    try:
        for entry in workdir.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.suffix != ".log":
                entry.unlink()
    except OSError as error:
        _log.warning("the work directory could not be emptied", workdir=str(workdir), error=str(error))


class LocalFolders:
    """The work directories below a data folder."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir

    def discard(self, job_id: str) -> None:
        """Remove the blocks of a job that has ended, unless a worker still holds the work directory."""
        workdir = work_directory(self._data_dir, job_id)
        if workdir.exists() and is_free(workdir):
            discard_work(workdir)

    def job_ids(self) -> list[str]:
        """Jobs that have a work directory."""
        folder = work_directory(self._data_dir, "")
        return [entry.name for entry in folder.iterdir() if entry.is_dir()] if folder.exists() else []

    def forget(self, job_id: str) -> None:
        """Remove the work directory, unless a worker still holds it."""
        workdir = work_directory(self._data_dir, job_id)
        if is_free(workdir):
            shutil.rmtree(workdir)
