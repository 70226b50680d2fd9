"""The folder of a job's unfinished work: finished blocks, and its attempts' output.

A requeued job finds its blocks there. Once a job has ended, nobody needs its blocks, which are as large as a whole
checkpoint; the logs stay, because they show why it ended.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import structlog

from secateur_service.executors.locks import is_free

_log = structlog.get_logger(__name__)


def work_directory(data_dir: Path, job_id: str) -> Path:
    """The folder; a worker locks the folder itself."""
    return data_dir / "work" / job_id


def attempt_log(data_dir: Path, job_id: str, attempt: int) -> Path:
    """The log file with the output of an attempt's worker."""
    return work_directory(data_dir, job_id) / f"attempt-{attempt}.log"


def discard_work(workdir: Path) -> None:
    """Remove everything but the logs; if something cannot be removed, it stays and this is logged."""
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
        try:
            with os.scandir(folder) as entries:  # asked before every claim, and there may be thousands
                return [entry.name for entry in entries if entry.is_dir()]
        except FileNotFoundError:
            return []

    def forget(self, job_id: str) -> None:
        """Remove the work directory, unless a worker still holds it."""
        workdir = work_directory(self._data_dir, job_id)
        if is_free(workdir):
            with contextlib.suppress(FileNotFoundError):  # another process of this machine does the same
                shutil.rmtree(workdir)
