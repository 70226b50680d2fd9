"""An object store that misbehaves under a running job."""

import pytest

from faults.proxy import proxy_of
from secateur_service.artifacts import open_store
from secateur_service.jobs.job import EventKind
from secateur_service.jobs.states import JobState
from support.site import ended, has_block
from support.waiting import until


@pytest.fixture
def proxy(s3_server):
    with proxy_of(s3_server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def site(make_site, s3_server, proxy):
    """Publishes through the proxy, and does not wait for it."""
    return make_site(**s3_server.as_destination() | {"s3_endpoint": proxy.endpoint}, publish_patience_seconds=0)


def test_a_job_gets_its_result_through_a_store_that_fails_now_and_then_in_every_way(site, proxy):
    undisturbed = site.submit()
    until(ended(site, undisturbed), site.failing())
    proxy.misbehave(share=0.35)
    disturbed = [site.submit() for _ in range(2)]
    for job_id in disturbed:
        job = until(ended(site, job_id), site.failing())
        assert job.state is JobState.SUCCEEDED
    assert all(proxy.met.values()), f"not every fault happened: {proxy.met}"
    proxy.behave()
    for job_id in disturbed:
        assert site.published(job_id) == site.published(undisturbed)
        assert [body["index"] for body in site.events(job_id, EventKind.BLOCK)] == list(range(site.blocks))


def test_a_store_that_fails_all_the_time_is_given_up_with_a_reason_and_nothing_is_half_published(
    site, proxy, s3_server
):
    proxy.misbehave("unavailable")
    job_id = site.submit(max_attempts=1)
    job = until(ended(site, job_id), site.failing())
    assert (job.state, job.failure.reason) == (JobState.FAILED, "OBJECT_STORE_UNAVAILABLE")
    assert len(site.store.blocks(job_id)) == site.blocks
    assert not list(s3_server.folder.glob("**/manifest*"))


def test_credentials_that_are_revoked_end_the_job_at_once_with_what_to_check(s3_site, s3_server):
    site = s3_site
    job_id = site.submit()
    dispatcher = site.failing("block.recorded=hold")
    until(has_block(site, job_id), dispatcher)
    s3_server.kill()
    s3_server.secret_key = "another-secret"
    s3_server.start()
    site.let_go()
    job = until(ended(site, job_id), dispatcher)
    assert (job.state, job.attempt, job.failure.reason) == (JobState.FAILED, 1, "OBJECT_STORE_FORBIDDEN")
    assert "check the access key" in job.failure.message
    assert not list(s3_server.folder.glob("**/manifest*"))


@pytest.mark.parametrize("damage", ["truncated", "gone"])
def test_a_shard_that_the_store_has_damaged_is_made_again(s3_site, damage):
    site = s3_site
    undisturbed = site.submit()
    until(ended(site, undisturbed), site.failing())
    job_id = site.submit()
    dispatcher = site.failing("job.pruned=hold")
    checkpoint = site.settings.data_dir / "work" / job_id / "checkpoint"
    until(
        lambda: site.store.blocks(job_id)[site.blocks - 1 :] and not list(checkpoint.glob("model-block-*")), dispatcher
    )
    objects = open_store(site.settings.destinations[0], site.settings)
    shard = min(objects.list_keys(f"{job_id}/checkpoint/model-block-"))
    objects.delete(shard)
    if damage == "truncated":
        objects.put_bytes(shard, b"short", "application/octet-stream")
    site.let_go()
    job = until(ended(site, job_id), dispatcher)
    assert (job.state, job.attempt, site.failures(job_id)) == (JobState.SUCCEEDED, 2, ["UPLOAD_INCOMPLETE"])
    assert site.published(job_id) == site.published(undisturbed)
