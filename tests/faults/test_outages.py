"""The database or the object store goes away under a running job."""

import pytest

from secateur_service.jobs.job import EventKind
from secateur_service.jobs.states import JobState
from support.clock import let_pass
from support.site import ended, has_block
from support.waiting import HANG_SECONDS, until

LEASE = 12.0


def continued(site, job_id):
    """The events of a job that went on, without a gap and without a block twice."""
    blocks = [body["index"] for body in site.events(job_id, EventKind.BLOCK)]
    assert blocks == sorted(set(blocks)), "a finished block was computed again"
    events = site.store.events(job_id, after=0, limit=1000)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    return events


def test_a_restarted_database_costs_no_work_and_no_attempt(make_site, postgres):
    site = make_site(database_url=postgres.create_database())
    job_id = site.submit()
    dispatcher = site.failing("block.recorded=hold")
    until(has_block(site, job_id), dispatcher)
    postgres.stop()
    postgres.start()
    site.let_go()
    job = until(ended(site, job_id), dispatcher)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)
    assert continued(site, job_id)


def test_a_database_that_is_away_for_longer_than_the_lease_costs_an_attempt_and_no_work(make_site, postgres):
    site = make_site(database_url=postgres.create_database(), lease_seconds=LEASE)
    job_id = site.submit()
    dispatcher = site.failing("block.recorded=hold")
    until(has_block(site, job_id), dispatcher)
    [running] = dispatcher._running
    postgres.stop()
    site.let_go()
    assert running.worker.process.wait(HANG_SECONDS) == 14, "it did not stop itself"
    postgres.start()
    let_pass(site.store, LEASE)
    job = until(ended(site, job_id), dispatcher)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 2)
    assert site.failures(job_id) == ["LEASE_EXPIRED"]
    assert continued(site, job_id)


@pytest.mark.parametrize("patience_seconds", [3600, 0])
def test_an_object_store_that_is_away_does_not_stop_the_pruning_and_publishing_waits_for_it(
    make_site, s3_server, patience_seconds
):
    site = make_site(**s3_server.as_destination(), publish_patience_seconds=patience_seconds)
    job_id = site.submit()
    dispatcher = site.failing("block.recorded=hold")
    until(has_block(site, job_id), dispatcher)
    s3_server.kill()
    site.let_go()
    until(lambda: site.failures(job_id) or waits_to_publish(site, job_id), dispatcher)
    assert len(site.store.blocks(job_id)) == site.blocks, "the pruning waited for the object store"
    assert not list(s3_server.folder.glob("**/manifest*"))
    s3_server.start()
    job = until(ended(site, job_id), dispatcher)
    assert job.state is JobState.SUCCEEDED
    assert site.published(job_id)[1] == set()
    stages = [body["stage"] for body in site.events(job_id, EventKind.STAGE)]
    repeated = 0 if patience_seconds else job.attempt - 1
    assert site.failures(job_id) == ["OBJECT_STORE_UNREACHABLE"] * repeated
    assert stages == ["FETCHING", "SAMPLING", "PRUNING", "PACKAGING", "PUBLISHING", *["PUBLISHING"] * repeated]
    shares = [body["fraction"] for body in site.events(job_id, EventKind.PROGRESS)]
    assert shares == sorted(shares), "the progress went back"
    assert bool(waits_to_publish(site, job_id)) is bool(patience_seconds)


def waits_to_publish(site, job_id):
    return [body for body in site.events(job_id, EventKind.LOG) if body["message"].startswith("publishing waits")]
