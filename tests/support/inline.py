"""Whole jobs in this process, from a specification to a published folder."""

from pathlib import Path

from secateur_service.library import prune
from secateur_service.pipeline.attempt import FinishedJob
from secateur_service.pipeline.observer import RecordingObserver


def run_inline(data, folder: Path, observer=None) -> tuple[FinishedJob, RecordingObserver]:
    """Admit and run a job; what it publishes lies in `folder`, the observer keeps what it told."""
    observer = observer or RecordingObserver()
    return prune(data, folder, threads=1, observer=observer), observer
