"""Whole jobs in this process, from a specification to a published folder."""

from pathlib import Path

from secateur_service.admission import AccessPolicy, admit
from secateur_service.artifacts.directory import DirectoryStore
from secateur_service.pipeline.job import JobOutcome, run_job
from secateur_service.pipeline.ledger import FileLedger
from secateur_service.pipeline.observer import RecordingObserver
from secateur_service.settings import Settings
from secateur_service.sources import open_sources


def run_inline(data, folder: Path, observer=None) -> tuple[JobOutcome, RecordingObserver]:
    """Admit and run a job; what it publishes lies in `folder`, the observer keeps what it told."""
    sources = open_sources(Settings(), everywhere=True)
    spec = admit(data, AccessPolicy(sources, destinations=None, on_device=False)).resolved
    workdir = folder / ".work"
    workdir.mkdir(parents=True)
    observer = observer or RecordingObserver()
    outcome = run_job(
        spec=spec,
        job_id="job",
        attempt=1,
        workdir=workdir,
        ledger=FileLedger(workdir / "ledger.json"),
        store=DirectoryStore(folder),
        observer=observer,
        device="cpu",
        threads=1,
        commit=lambda digest: digest,
        sources=sources,
        prefix="",
    )
    return outcome, observer
