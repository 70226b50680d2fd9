"""Workers with the real pipeline that fail at every step of a job, on every kind of database and object store."""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from secateur_service import faults
from secateur_service.artifacts import open_store
from secateur_service.artifacts.manifest import parse_manifest
from secateur_service.execution.local import LocalExecutor
from secateur_service.jobs.job import EventKind
from secateur_service.jobs.states import JobState
from secateur_service.spec import parse_spec
from servers import postgres_folder
from support.jobs import new_job
from support.models import save_corpora, save_model, spec_data
from support.site import Site, ended, until

TESTS = Path(__file__).parents[1]
BLOCKS = 3


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    files = tmp_path_factory.mktemp("files")
    save_model(files / "model", "llama", dtype=torch.bfloat16, num_hidden_layers=BLOCKS)
    save_corpora(files)
    return files


class RealSite(Site):
    """A site whose workers run the real pipeline and fail as told."""

    def __init__(self, folder, files, **settings):
        super().__init__(folder, file_roots=(files,), lease_seconds=5, threads_per_worker=1, **settings)
        self.store.migrate()
        self.files = files

    def executor(self, faults):
        command = (sys.executable, str(TESTS / "faults" / "worker.py"), *faults)
        return LocalExecutor(self.settings, command=command, environment={**os.environ, "PYTHONPATH": str(TESTS)})

    def failing(self, *faults):
        """A dispatcher whose workers' n-th attempt meets the n-th fault."""
        return self.dispatcher(faults)

    def submit(self):
        data = spec_data(self.files / "model", self.files / "calibration", self.files / "evaluation")
        destination = {"destination": self.settings.destinations[0]}
        resolved = parse_spec({**data, "output": destination, "execution": {"max_attempts": 50}})
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


@pytest.fixture
def site(tmp_path, files):
    """On SQLite and a folder."""
    site = RealSite(tmp_path / "data", files)
    yield site
    site.close()


@pytest.fixture
def remote_site(request, tmp_path, files, s3_server):
    """On PostgreSQL, where it is installed, and an object store."""
    settings = {
        f"s3_{name}": getattr(s3_server.settings, f"s3_{name}") for name in ("endpoint", "access_key", "secret_key")
    }
    if postgres_folder():
        settings["database_url"] = request.getfixturevalue("postgres").create_database()
    site = RealSite(tmp_path / "data", files, destinations=("s3://models/results",), **settings)
    yield site
    site.close()


def test_a_job_whose_worker_is_killed_once_at_every_step_publishes_the_same_bytes_once(remote_site):
    site = remote_site
    undisturbed = site.submit()
    until(ended(site, undisturbed), site.failing())
    job_id = site.submit()
    points = [point for point in faults.POINTS if point != "worker.succeeded"]
    job = until(ended(site, job_id), site.failing(*(f"{point}=kill" for point in points)), seconds=240)
    assert job.state is JobState.SUCCEEDED
    assert job.attempt == len(points) + 1, "a point was not reached"
    assert site.published(job_id) == site.published(undisturbed)
    assert site.published(job_id)[1] == set()
    blocks = [body["index"] for body in site.events(job_id, EventKind.BLOCK)]
    assert blocks == list(range(BLOCKS)), "a finished block was computed again"
    failures = [body["failure"]["reason"] for body in site.events(job_id, EventKind.STATE) if body.get("failure")]
    assert failures == ["WORKER_KILLED"] * len(points)


def test_a_worker_that_is_killed_after_its_job_has_ended_changes_nothing(site):
    job_id = site.submit()
    dispatcher = site.failing("worker.succeeded=kill")
    job = until(ended(site, job_id), dispatcher)
    until(lambda: not dispatcher._running, dispatcher)
    assert site.store.get(job_id) == job
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)


def test_a_worker_that_was_stopped_while_publishing_is_fenced_and_its_successor_publishes(site):
    job_id = site.submit()
    dispatcher = site.failing("publish.uploaded=stop")
    until(lambda: site.store.get(job_id).attempt == 1, dispatcher)
    [stopped] = dispatcher._running
    job = until(ended(site, job_id), dispatcher)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 2)
    assert stopped.worker.process.wait(30) == -signal.SIGKILL  # or it would keep the job's files from its successor
    assert site.published(job_id)[1] == set()


@pytest.mark.parametrize("point", ["block.written", "job.packaged"])
def test_a_full_disk_keeps_the_finished_blocks_and_says_so(site, point):
    job_id = site.submit()
    job = until(ended(site, job_id), site.failing(f"{point}=disk-full"))
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 2)
    [reason] = [body["failure"]["reason"] for body in site.events(job_id, EventKind.STATE) if body.get("failure")]
    assert reason == "DISK_FULL"
