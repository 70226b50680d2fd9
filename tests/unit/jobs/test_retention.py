import pytest

from secateur_service.errors import NotFoundError
from secateur_service.jobs.job import Failure
from support.clock import let_pass
from support.jobs import block, new_job, result

PERMANENT = Failure(reason="BAD_MODEL", message="the model is bad", retryable=False)


@pytest.fixture
def retention(store):
    return store.retention


def running(store, **kwargs):
    store.create(new_job(**kwargs))
    return store.claim(owner="test", lease_seconds=30).id


def succeeded(store):
    job_id = running(store)
    store.succeed(job_id, 1, result())
    return job_id


def failed(store, **kwargs):
    job_id = running(store, **kwargs)
    store.release(job_id, 1, PERMANENT)
    return job_id


def test_only_jobs_that_have_ended_are_due_each_kind_in_its_time(store, retention):
    cancelled = store.create(new_job()).id
    store.request_cancel(cancelled)
    ended = {"succeeded": succeeded(store), "failed": failed(store), "cancelled": cancelled}
    running(store)
    store.create(new_job())
    let_pass(store, 1)
    assert retention.unswept(succeeded_seconds=60, other_seconds=60) == []
    assert retention.unswept(succeeded_seconds=0, other_seconds=60) == [ended["succeeded"]]
    assert retention.unswept(succeeded_seconds=60, other_seconds=0) == [cancelled, ended["failed"]]
    retention.mark_swept(ended["failed"])
    assert retention.unswept(succeeded_seconds=0, other_seconds=0) == [cancelled, ended["succeeded"]]


def test_what_a_retry_may_need_is_not_due_before_the_retry_is_swept(store, retention):
    first = failed(store)
    second = failed(store, retry_of=first)
    third = running(store, retry_of=second)
    let_pass(store, 1)
    assert retention.unswept(succeeded_seconds=0, other_seconds=0) == []
    store.succeed(third, 1, result())
    let_pass(store, 1)
    for job_id in (third, second, first):
        assert retention.unswept(succeeded_seconds=0, other_seconds=0) == [job_id]
        retention.mark_swept(job_id)


def test_a_forgotten_job_is_gone_with_its_events_and_ledger_and_no_other(store, retention):
    old = running(store, request_id="r", request_digest="d")
    store.record_block(old, 1, block(0))
    store.succeed(old, 1, result())
    kept = running(store)
    store.record_block(kept, 1, block(0))
    let_pass(store, 1)
    events = store.events(kept, after=0, limit=10)
    assert retention.forget(0) == [], "it was not swept"
    retention.mark_swept(old)
    assert retention.forget(60) == []
    assert retention.forget(0) == [old]
    with pytest.raises(NotFoundError):
        store.get(old)
    assert (store.events(old, after=0, limit=10), store.blocks(old)) == ([], [])
    assert (store.events(kept, after=0, limit=10), store.blocks(kept)) == (events, [block(0)])
    assert store.find_request("r", "other") is None


def test_a_job_that_cannot_be_swept_is_forgotten_all_the_same_when_that_is_asked_for(store, retention):
    old, other = failed(store), failed(store)
    let_pass(store, 1)
    assert retention.forget(60, unsweepable=[old]) == []
    assert retention.forget(0, unsweepable=[old]) == [old]
    assert store.get(other).id == other


def test_followers_read_on_after_events_of_forgotten_jobs(store, retention):
    old = failed(store)
    retention.mark_swept(old)
    position = store.position()
    let_pass(store, 1)
    retention.forget(0)
    assert store.events_since(position, limit=10) == ([], position)
    created = store.create(new_job())
    [event], _ = store.events_since(position, limit=10)
    assert event.job_id == created.id
