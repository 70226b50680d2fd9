import time
from contextlib import closing

import pytest

from secateur_service.errors import CancelledError, FencedError, PreemptedError, TransientError
from secateur_service.execution.lease import SURE_SHARE, Lease
from secateur_service.jobs.job import Failure
from secateur_service.jobs.store import open_job_store

FAILURE = Failure("ANY", "any", retryable=True)


def eventually_raises(kind, call, *, seconds=20):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            call()
        except kind:
            return
        time.sleep(0.01)
    pytest.fail(f"no {kind.__name__} within {seconds} s")


def test_a_held_lease_lets_the_work_go_on_and_is_extended_by_its_thread(store, job):
    with Lease(store, job.id, 1, lease_seconds=3) as lease:
        time.sleep(3.5)
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


def test_a_cancellation_comes_with_a_heartbeat(store, job):
    with Lease(store, job.id, 1, lease_seconds=6) as lease:
        lease.check()
        store.request_cancel(job.id)
        eventually_raises(CancelledError, lease.check)


def test_a_worker_whose_job_was_given_to_another_attempt_learns_it_from_a_heartbeat(store, job):
    with Lease(store, job.id, 1, lease_seconds=6) as lease:
        store.release(job.id, 1, FAILURE)
        eventually_raises(FencedError, lease.check)


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


def test_a_store_that_is_away_for_a_moment_does_not_end_the_lease(store, job):
    def rename(before, after):
        with store._database.writer.begin() as connection:
            connection.exec_driver_sql(f"ALTER TABLE {before} RENAME TO {after}")

    with Lease(store, job.id, 1, lease_seconds=6) as lease:
        rename("jobs", "hidden")
        time.sleep(2.2)
        rename("hidden", "jobs")
        back = time.monotonic()
        while store.max_heartbeat_age_seconds() > time.monotonic() - back:
            assert time.monotonic() - back < 20
            time.sleep(0.05)
        lease.check()
