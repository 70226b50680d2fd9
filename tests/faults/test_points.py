"""Workers with the real pipeline that fail at every step of a job, on every kind of database and object store."""

import signal

from secateur_service import faults
from secateur_service.jobs.job import EventKind
from secateur_service.jobs.states import JobState
from support.clock import Clock, let_pass
from support.models import save_corpora
from support.processes import is_stopped
from support.site import ended
from support.vocabularies import save_scene
from support.waiting import HANG_SECONDS, until

# What a worker has done so far lies in its own folder, whatever the database and the object store are.
LOCAL = {"job.fetched", "job.sampled", "job.shrunk", "job.planned", "block.written"}
# Reached only by jobs that train, or look for what to remove, and by a worker whose job has ended.
OTHERS = {"worker.succeeded", "budget.found", "block.judged"}


def test_a_job_whose_worker_is_killed_once_at_every_step_publishes_the_same_bytes_once(any_site):
    site = any_site
    undisturbed = site.submit()
    until(ended(site, undisturbed), site.failing())
    job_id = site.submit()
    left_out = OTHERS if site.settings.database_url.startswith("sqlite") else OTHERS | LOCAL
    points = [point for point in faults.POINTS if point not in left_out]
    job = until(ended(site, job_id), site.failing(*(f"{point}=kill" for point in points)))
    assert job.state is JobState.SUCCEEDED
    assert job.attempt == len(points) + 1, "a point was not reached"
    assert site.published(job_id) == site.published(undisturbed)
    assert site.published(job_id)[1] == set()
    blocks = [body["index"] for body in site.events(job_id, EventKind.BLOCK)]
    assert blocks == list(range(site.blocks)), "a finished block was computed again"
    assert site.failures(job_id) == ["WORKER_KILLED"] * len(points)


def test_a_job_that_makes_a_model_smaller_in_every_way_is_killed_at_every_step(make_site, tmp_path):
    files = tmp_path / "files"
    save_scene(files / "model")
    save_corpora(files)
    site = make_site(files=files)
    shrink = {
        "vocabulary": {"extra_tokens": 0.02},
        "blocks": {"remove": 1},
        "kv_heads": {"remove": 1},
        "feed_forward": {"channels": 48},
    }
    training = {"epochs": 2}
    undisturbed = site.submit(shrink=shrink, reconstruction=training)
    until(ended(site, undisturbed), site.failing())
    job_id = site.submit(shrink=shrink, reconstruction=training)
    points = [
        "job.sampled",
        "job.shrunk",
        "job.planned",
        "block.judged",
        "block.recorded",
        "job.packaged",
    ]
    job = until(ended(site, job_id), site.failing(*(f"{point}=kill" for point in points)))
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, len(points) + 1)
    assert site.published(job_id) == site.published(undisturbed)
    assert [body["index"] for body in site.events(job_id, EventKind.BLOCK)] == [0, 1]


def test_a_job_that_looks_for_what_to_remove_is_killed_after_everything_that_it_finds(make_site, tmp_path):
    files = tmp_path / "files"
    save_scene(files / "model")
    save_corpora(files)
    site = make_site(files=files)
    axes = ["vocabulary", "blocks", "kv_heads", "feed_forward"]  # admission fills them in
    shrink = {"budget": {"parameters": 0.6, "axes": axes}}
    undisturbed = site.submit(shrink=shrink)
    until(ended(site, undisturbed), site.failing())
    job_id = site.submit(shrink=shrink)
    kills = ["budget.found=kill"] * 5
    job = until(ended(site, job_id), site.failing(*kills))
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, len(kills) + 1)
    assert site.published(job_id) == site.published(undisturbed)


def test_a_worker_that_is_killed_after_its_job_has_ended_changes_nothing(site):
    job_id = site.submit()
    dispatcher = site.failing("worker.succeeded=kill")
    job = until(ended(site, job_id), dispatcher)
    until(lambda: not dispatcher._running, dispatcher)
    assert site.store.get(job_id) == job
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)


def test_a_worker_that_was_stopped_while_publishing_is_fenced_and_its_successor_publishes(site):
    job_id = site.submit()
    clock = Clock()
    dispatcher = site.failing("publish.uploaded=stop", monotonic=clock)
    until(lambda: dispatcher._running and is_stopped(dispatcher._running[0].worker.process.pid), dispatcher)
    [stopped] = dispatcher._running
    let_pass(site.store, 60)
    dispatcher.reconcile()
    clock.now += 60  # it has lost its job, and keeps its slot
    job = until(ended(site, job_id), dispatcher)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 2)
    # Or it would keep the job's files from its successor.
    assert stopped.worker.process.wait(HANG_SECONDS) == -signal.SIGKILL
    assert site.published(job_id)[1] == set()
