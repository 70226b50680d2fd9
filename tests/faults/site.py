"""A site whose workers run the real pipeline and fail as told (`faults.worker`)."""

import hashlib
import json

import torch

from faults.worker import FaultyExecutor
from secateur_service.artifacts import open_store
from secateur_service.artifacts.manifest import parse_manifest
from secateur_service.spec import parse_spec
from support.jobs import new_job
from support.models import save_corpora, save_model, spec_data
from support.site import Site

TINY_BLOCKS = 3


class RealSite(Site):
    """Dispatchers over a data folder, with real workers."""

    blocks = TINY_BLOCKS

    def __init__(self, folder, files, **settings):
        super().__init__(folder, file_roots=(files,), lease_seconds=5, threads_per_worker=1, **settings)
        self.store.migrate()
        self.files = files

    @classmethod
    def with_s3(cls, folder, files, server, **settings):
        """Publishes into the bucket of an S3 server."""
        access = {name: getattr(server.settings, name) for name in ("s3_endpoint", "s3_access_key", "s3_secret_key")}
        return cls(folder, files, destinations=("s3://models/results",), **access, **settings)

    def executor(self, faulty):
        return FaultyExecutor(self.settings, faulty)

    def failing(self, *faults):
        """A dispatcher whose workers' n-th attempt meets the n-th fault."""
        return self.dispatcher(faults)

    def submit(self, max_attempts=50, **evaluation):
        data = spec_data(self.files / "model", self.files / "calibration", self.files / "evaluation")
        data["evaluation"].update(evaluation)
        destination = {"destination": self.settings.destinations[0]}
        resolved = parse_spec({**data, "output": destination, "execution": {"max_attempts": max_attempts}})
        return self.store.create(new_job(resolved=resolved)).id

    def published(self, job_id):
        """Digests of what a job published, verified, less what names the job or the time."""
        job = self.store.get(job_id)
        objects = open_store(self.settings.destinations[0], self.settings)
        content = objects.get_bytes(f"{job_id}/manifest.json")
        assert hashlib.sha256(content).hexdigest() == job.result.manifest_sha256
        digests = {}
        for file in parse_manifest(content).files:
            stored = objects.get_bytes(f"{job_id}/{file.path}")
            assert hashlib.sha256(stored).hexdigest() == file.sha256
            if file.path == "report/report.json":
                report = json.loads(stored)
                del report["job"]
                stored = json.dumps(report).encode()
            if not file.path.endswith((".html", "README.md", "provenance.json")):
                digests[file.path] = hashlib.sha256(stored).hexdigest()
        left = {key.removeprefix(f"{job_id}/") for key in objects.list_keys(f"{job_id}/")}
        return digests, left - {file.path for file in parse_manifest(content).files} - {"manifest.json"}


def save_tiny_files(folder):
    """A model of few blocks and text for it."""
    save_model(folder / "model", "llama", dtype=torch.bfloat16, num_hidden_layers=TINY_BLOCKS)
    save_corpora(folder)
    return folder
