"""Workers with the real pipeline that fail at every step of a job, on every kind of database and object store."""

import signal
from pathlib import Path

import pytest

from faults.site import RealSite
from secateur_service import faults
from secateur_service.jobs.job import EventKind
from secateur_service.jobs.states import JobState
from servers import postgres_folder
from support.site import ended, until

TESTS = Path(__file__).parents[1]


@pytest.fixture
def site(tmp_path, tiny_files):
    """On SQLite and a folder."""
    site = RealSite(tmp_path / "data", tiny_files)
    yield site
    site.close()


@pytest.fixture
def remote_site(request, tmp_path, tiny_files, s3_server):
    """On PostgreSQL, where it is installed, and an object store."""
    settings = {}
    if postgres_folder():
        settings["database_url"] = request.getfixturevalue("postgres").create_database()
    site = RealSite.with_s3(tmp_path / "data", tiny_files, s3_server, **settings)
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
    assert blocks == list(range(site.blocks)), "a finished block was computed again"
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


def test_a_full_disk_keeps_the_finished_blocks_and_says_so(site):
    job_id = site.submit()
    job = until(ended(site, job_id), site.failing("job.packaged=disk-full"))
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 2)
    [reason] = [body["failure"]["reason"] for body in site.events(job_id, EventKind.STATE) if body.get("failure")]
    assert reason == "DISK_FULL"
    assert [body["index"] for body in site.events(job_id, EventKind.BLOCK)] == list(range(site.blocks))
