"""A result that is complete but for its publishing; the next attempt on this machine goes straight on to that.

All of it was made under one fingerprint, so it is the job's result, whatever the conditions are by now. What is kept is
only trusted as far as its digests go: the list is written last, and files that a crash has damaged, or that later work
has overwritten, do not count.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from secateur_service.artifacts import LocalFile, Manifest, ManifestFile, publish
from secateur_service.artifacts.publisher import UPLOAD_INCOMPLETE
from secateur_service.durable import file_digest, write_durably
from secateur_service.errors import TransientError
from secateur_service.evaluation.report import Report
from secateur_service.pipeline.attempt import Attempt, Ports
from secateur_service.pipeline.meter import Meter
from secateur_service.pipeline.patience import Patience
from secateur_service.records.progress import Progress
from secateur_service.spec import PruneSpec

REPORT_PATH = "report/report.json"
_LIST = "packaged.json"


@dataclass(frozen=True)
class Packaged:
    """What is left to publish.

    Attributes:
        files: every file, with its entry in the manifest.
        report: the report among them.
        progress: how far the job was.
        work_bytes: the size of the upload, as the meter counts it.
    """

    files: Sequence[tuple[LocalFile, ManifestFile]]
    report: Report
    progress: Progress
    work_bytes: int

    @property
    def entries(self) -> tuple[ManifestFile, ...]:
        """The files' entries in the manifest."""
        return tuple(entry for _, entry in self.files)

    def keep(self, workdir: Path, spec: PruneSpec) -> None:
        """Keep the list in the work directory; the files are there."""
        content = {
            "spec": spec.digest(),
            "blocks_done": self.progress.blocks_done,
            "blocks_total": self.progress.blocks_total,
            "fraction": self.progress.fraction,
            "work_bytes": self.work_bytes,
            "files": [entry.model_dump() for entry in self.entries],
        }
        write_durably(workdir / _LIST, json.dumps(content).encode())


def kept(workdir: Path, spec: PruneSpec) -> Packaged | None:
    """What an earlier attempt packaged to the same specification; None if there is nothing, or not all of it."""
    try:
        content = json.loads((workdir / _LIST).read_bytes())
        if content["spec"] != spec.digest():
            return None
        entries = [ManifestFile.model_validate(entry) for entry in content["files"]]
        if not all(_is_intact(workdir / entry.path, entry) for entry in entries):
            return None
        report = Report.model_validate_json((workdir / REPORT_PATH).read_bytes())
        progress = Progress(content["blocks_done"], content["blocks_total"], content["fraction"])
        work_bytes = content["work_bytes"]
    except (OSError, ValueError, KeyError, TypeError, ValidationError):  # none, or of another release
        return None
    files = [(LocalFile(workdir / entry.path, entry.path, entry.media_type), entry) for entry in entries]
    return Packaged(files, report, progress, work_bytes)


def forget(workdir: Path) -> None:
    """Have the next attempt make the result again, from its finished blocks."""
    (workdir / _LIST).unlink(missing_ok=True)


def publish_packaged(
    packaged: Packaged, attempt: Attempt, workdir: Path, ports: Ports, meter: Meter, patience: Patience
) -> str:
    """Publish all files, then the manifest that names them; what the store has already is not uploaded again.

    Returns:
        The manifest's digest.

    Raises:
        PermanentError, TransientError: see `publish`; the store was away for too long.
    """
    manifest = Manifest(
        job_id=attempt.job_id,
        attempt=attempt.number,
        files=packaged.entries,
        resolved_spec=attempt.spec.model_dump(mode="json"),
        report_sha256=next(entry.sha256 for entry in packaged.entries if entry.path == REPORT_PATH),
    )
    counted = 0.0

    def on_uploaded(done: int, total: int) -> None:
        nonlocal counted
        reached = max(counted, packaged.work_bytes * done / max(total, 1))
        meter.tick("publish", reached - counted)
        counted = reached

    upload = partial(
        publish,
        ports.store,
        attempt.prefix,
        [file for file, _ in packaged.files],
        manifest,
        commit=ports.commit,
        observer=ports.observer,
        on_uploaded=on_uploaded,
    )
    try:
        return patience.insist("publishing", upload)
    except TransientError as error:
        if error.reason == UPLOAD_INCOMPLETE:  # a block has to be made again
            forget(workdir)
        raise


def _is_intact(path: Path, entry: ManifestFile) -> bool:
    """Whether a file is what was packaged; shards may have been moved to the store, where publishing looks for them."""
    if not path.exists():
        return entry.is_content_named
    if path.stat().st_size != entry.size_bytes:
        return False
    return entry.is_content_named or file_digest(path) == entry.sha256
