from contextlib import closing

import pytest
from structlog.testing import capture_logs

from secateur_service.errors import CancelledError, FencedError, PreemptedError, TransientError
from secateur_service.jobs.job import Failure
from secateur_service.jobs.store import open_job_store
from secateur_service.worker.lease import SURE_SHARE, Lease
from support.clock import let_pass
from support.waiting import until

FAILURE = Failure("ANY", "any", retryable=True)


LEASE = 9  # three seconds between heartbeats; with a clock that stands still, a slow machine fences nobody


def raises(kind, call):
    try:
        call()
    except kind:
        return True
    return False


def await_heartbeat(store, *, after_seconds=1000):
    """Make the newest heartbeat old, and wait for a newer one."""
    let_pass(store, after_seconds)
    until(lambda: store.max_heartbeat_age_seconds() < after_seconds)


def test_a_held_lease_lets_the_work_go_on_and_is_extended_by_its_thread(store, job, clock):
    with Lease(store, job.id, 1, lease_seconds=LEASE, monotonic=clock) as lease:
        for _ in range(2):
            await_heartbeat(store)
            assert store.expire_leases() == []
        lease.check()


def test_a_lease_of_a_superseded_attempt_cannot_be_entered(store, job):
    store.release(job.id, 1, FAILURE)
    with pytest.raises(FencedError), Lease(store, job.id, 1, lease_seconds=30):
        pytest.fail("entered")


def test_a_store_that_does_not_answer_the_first_heartbeat_is_a_transient_failure(tmp_path):
    empty = open_job_store(f"sqlite:///{tmp_path}/empty.sqlite3")
    with closing(empty), pytest.raises(TransientError), Lease(empty, "job", 1, lease_seconds=30):
        pytest.fail("entered")


def test_a_cancellation_comes_with_a_heartbeat(store, job, clock):
    with Lease(store, job.id, 1, lease_seconds=LEASE, monotonic=clock) as lease:
        lease.check()
        store.request_cancel(job.id)
        until(lambda: raises(CancelledError, lease.check))


def test_a_worker_whose_job_was_given_to_another_attempt_learns_it_from_a_heartbeat(store, job, clock):
    with Lease(store, job.id, 1, lease_seconds=LEASE, monotonic=clock) as lease:
        store.release(job.id, 1, FAILURE)
        until(lambda: raises(FencedError, lease.check))


def test_silence_of_most_of_a_lease_fences_the_worker_by_its_own_clock(store, job, clock):
    with Lease(store, job.id, 1, lease_seconds=1000, monotonic=clock) as lease:
        clock.now += SURE_SHARE * 1000 - 1
        lease.check()
        clock.now += 2
        with pytest.raises(FencedError, match="no heartbeat was answered"):
            lease.check()
        with pytest.raises(FencedError):
            lease.require_held()


def test_a_preemption_stops_the_work_but_a_cancellation_and_a_fence_come_first(store, job, clock):
    with Lease(store, job.id, 1, lease_seconds=1000, monotonic=clock) as lease:
        lease.preempt()
        with pytest.raises(PreemptedError):
            lease.check()
    store.request_cancel(job.id)
    with Lease(store, job.id, 1, lease_seconds=1000, monotonic=clock) as lease:
        lease.preempt()
        with pytest.raises(CancelledError):
            lease.check()
        clock.now += 1000
        with pytest.raises(FencedError):
            lease.check()


def test_a_store_that_is_away_for_a_moment_does_not_end_the_lease(store, job, clock):
    def rename(before, after):
        with store._database.writer.begin() as connection:
            connection.exec_driver_sql(f"ALTER TABLE {before} RENAME TO {after}")

    with capture_logs() as lines, Lease(store, job.id, 1, lease_seconds=LEASE, monotonic=clock) as lease:
        rename("jobs", "hidden")
        until(lambda: "heartbeat was not answered" in [line["event"] for line in lines])
        rename("hidden", "jobs")
        await_heartbeat(store)
        lease.check()
