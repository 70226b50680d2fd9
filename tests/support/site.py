"""A data folder with its store, and dispatchers over it whose workers run a toy pipeline (`toy_worker`)."""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

import torch

from secateur_service.artifacts import open_store
from secateur_service.artifacts.manifest import parse_manifest
from secateur_service.execution.local import LocalExecutor
from secateur_service.jobs.backoff import Backoff
from secateur_service.jobs.dispatcher import Dispatcher
from secateur_service.jobs.job import EventKind
from secateur_service.jobs.store import open_job_store
from secateur_service.settings import Settings
from secateur_service.spec import parse_spec
from support.jobs import new_job
from support.models import save_corpora, save_model, spec_data

TESTS = Path(__file__).parents[1]
TINY_BLOCKS = 3


class Site:
    """A data folder with its store, and dispatchers over it."""

    def __init__(self, folder, **settings):
        given = {"retry_base_seconds": 0.0, "poll_seconds": 0.05, "metrics_listen": "", **settings}
        self.settings = Settings(data_dir=folder, **given)
        self.store = open_job_store(self.settings.database_url)
        self.dispatchers = []

    def executor(self, behaviour):
        command = (sys.executable, str(TESTS / "support" / "toy_worker.py"), behaviour)
        return LocalExecutor(self.settings, command=command, environment={"PYTHONPATH": str(TESTS)})

    def dispatcher(self, behaviour="finish", **kwargs):
        settings = self.settings
        given = {
            "lease_seconds": settings.lease_seconds,
            "poll_seconds": settings.poll_seconds,
            "drain_seconds": settings.drain_seconds,
            "cancel_grace_seconds": settings.cancel_grace_seconds,
            "backoff": Backoff(settings.retry_base_seconds, settings.retry_max_seconds),
            **kwargs,
        }
        dispatcher = Dispatcher(self.store, self.executor(behaviour), owner="test", **given)
        self.dispatchers.append(dispatcher)
        return dispatcher

    def create(self, **kwargs):
        return self.store.create(new_job(destination=self.settings.destinations[0], **kwargs)).id

    def close(self):
        for dispatcher in self.dispatchers:
            for running in dispatcher._running:
                running.worker.kill()
                running.worker.process.wait()
        self.store.close()

    def events(self, job_id, kind):
        return [event.body for event in self.store.events(job_id, after=0, limit=1000) if event.kind is kind]

    def states(self, job_id):
        return [body["state"] for body in self.events(job_id, EventKind.STATE)]


class RealSite(Site):
    """A site whose workers run the real pipeline and fail as told (`faults/worker.py`)."""

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

    def executor(self, faults):
        command = (sys.executable, str(TESTS / "faults" / "worker.py"), *faults)
        return LocalExecutor(self.settings, command=command, environment={**os.environ, "PYTHONPATH": str(TESTS)})

    def failing(self, *faults):
        """A dispatcher whose workers' n-th attempt meets the n-th fault."""
        return self.dispatcher(faults)

    def submit(self, max_attempts=50):
        data = spec_data(self.files / "model", self.files / "calibration", self.files / "evaluation")
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


def until(condition, dispatcher=None, *, seconds=90):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "this did not happen in time"
        if dispatcher is not None:
            dispatcher.reconcile()
        time.sleep(0.02)
    return found


def ended(site, job_id):
    return lambda: (job := site.store.get(job_id)).state.is_terminal and job


def has_block(site, job_id):
    return lambda: site.store.blocks(job_id)
