"""The database or the object store goes away under a running job."""

import time

import pytest

from secateur_service.jobs.job import EventKind
from secateur_service.jobs.states import JobState
from support.site import ended, has_block
from support.waiting import until

WAITING = ("block.recorded=wait",) * 9  # a second at every block, in every attempt


@pytest.mark.parametrize(("away_seconds", "attempts"), [(0, 1), (8, 2)])
def test_a_restarted_database_costs_no_work_and_no_attempt_unless_it_is_away_longer_than_the_lease(
    make_site, postgres, away_seconds, attempts
):
    site = make_site(database_url=postgres.create_database())
    job_id = site.submit()
    dispatcher = site.failing(*WAITING)
    until(has_block(site, job_id), dispatcher)
    postgres.stop()
    time.sleep(away_seconds)
    postgres.start()
    job = until(ended(site, job_id), dispatcher)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, attempts)
    assert site.failures(job_id) == ["LEASE_EXPIRED"] * (attempts - 1)
    blocks = [body["index"] for body in site.events(job_id, EventKind.BLOCK)]
    assert blocks == sorted(set(blocks)), "a finished block was computed again"
    events = site.store.events(job_id, after=0, limit=1000)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))


def test_an_object_store_that_is_away_does_not_stop_the_pruning_and_nothing_is_half_published(s3_site, s3_server):
    site = s3_site
    job_id = site.submit()
    dispatcher = site.failing(*WAITING)
    until(has_block(site, job_id), dispatcher)
    s3_server.kill()
    until(lambda: site.failures(job_id), dispatcher)
    assert len(site.store.blocks(job_id)) == site.blocks, "the pruning waited for the object store"
    assert not list(s3_server.folder.glob("**/manifest*"))
    s3_server.start()
    job = until(ended(site, job_id), dispatcher)
    assert job.state is JobState.SUCCEEDED
    assert set(site.failures(job_id)) == {"OBJECT_STORE_UNREACHABLE"}
    assert site.published(job_id)[1] == set()
