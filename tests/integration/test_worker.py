"""One worker process by itself, without a dispatcher: locks, exit codes, what it leaves in the store."""

import fcntl
import signal

import pytest
from sqlalchemy import update

from secateur_service.jobs.job import EventKind
from secateur_service.jobs.schema import jobs
from secateur_service.jobs.states import JobState
from support.clock import let_pass
from support.site import Site, ended
from support.waiting import HANG_SECONDS, until

LEASE = 15  # a cancellation comes with a heartbeat, of which there are three in it


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path / "data", lease_seconds=LEASE)
    site.store.migrate()
    yield site
    site.close()


def start(site, behaviour):
    job_id = site.create()
    job = site.store.claim(owner="test", lease_seconds=LEASE)
    worker = site.executor(behaviour).start(job_id, job.attempt, 0)
    return job_id, worker


def exit_code(worker):
    return worker.process.wait(HANG_SECONDS)


@pytest.mark.parametrize(
    ("behaviour", "code", "state"),
    [
        ("finish", 0, JobState.SUCCEEDED),
        ("permanent", 10, JobState.FAILED),
        ("disk-full", 12, JobState.QUEUED),
        ("defect", 15, JobState.QUEUED),
    ],
)
def test_the_exit_code_repeats_the_end_that_is_in_the_store(site, behaviour, code, state):
    job_id, worker = start(site, behaviour)
    assert exit_code(worker) == code
    assert site.store.get(job_id).state is state


def test_sigterm_stops_the_worker_at_the_next_check_uncharged(site):
    job_id, worker = start(site, "slow")
    until(lambda: site.store.blocks(job_id))
    worker.terminate()
    assert exit_code(worker) == 13
    job = site.store.get(job_id)
    assert (job.state, job.charged_attempts) == (JobState.QUEUED, 0)


def test_a_cancelled_worker_exits_with_zero_and_removes_its_blocks_but_not_its_log(site):
    job_id, worker = start(site, "slow")
    until(lambda: site.store.blocks(job_id))
    site.store.request_cancel(job_id)
    assert exit_code(worker) == 0
    assert site.store.get(job_id).state is JobState.CANCELLED
    assert left_of(site, job_id) == ["attempt-1.log"]


def test_sigterm_after_the_end_was_written_does_not_change_the_exit_code(site):
    job_id, worker = start(site, "lingers")
    until(lambda: site.store.get(job_id).state is JobState.SUCCEEDED)
    until(lambda: worker.terminate() or worker.poll() is not None)
    assert worker.process.returncode == 0


def test_a_failed_job_keeps_its_blocks_while_it_may_be_tried_again_and_only_then(site):
    job_id, worker = start(site, "defect")
    assert exit_code(worker) == 15
    assert left_of(site, job_id) == ["attempt-1.log", "checkpoint"]
    job = until(lambda: site.store.claim(owner="test", lease_seconds=LEASE))
    assert exit_code(site.executor("permanent").start(job_id, job.attempt, 0)) == 10
    assert site.store.get(job_id).state is JobState.FAILED
    assert left_of(site, job_id) == ["attempt-1.log", "attempt-2.log"]


def test_a_worker_for_a_superseded_attempt_writes_nothing_and_exits_as_fenced(site):
    job_id = site.create()
    before = site.store.get(job_id)
    assert exit_code(site.executor("finish").start(job_id, 1, 0)) == 14
    assert site.store.get(job_id) == before


def test_a_slot_that_an_orphan_holds_ends_the_attempt_uncharged(site):
    slot = site.settings.data_dir / "slots" / "cpu.lock"
    slot.parent.mkdir(parents=True)
    with slot.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        job_id, worker = start(site, "finish")
        assert exit_code(worker) == 13
    last = site.events(job_id, EventKind.STATE)[-1]
    assert (last["state"], last["failure"]["reason"]) == ("QUEUED", "SLOT_IN_USE")


def test_a_worker_that_lost_the_store_stops_itself_by_its_own_clock(tmp_path):
    """That it does so before its lease ends is shown with a clock in tests/unit/execution/test_lease.py."""
    site = Site(tmp_path / "data", lease_seconds=8)
    site.store.migrate()
    job_id, worker = start(site, "slow")
    until(lambda: site.store.blocks(job_id))
    rename(site, "jobs", "hidden")
    assert exit_code(worker) == 14
    rename(site, "hidden", "jobs")
    assert site.store.get(job_id).state is JobState.RUNNING
    let_pass(site.store, LEASE)
    assert [expired.state for expired in site.store.expire_leases()] == [JobState.QUEUED]
    site.close()


def test_the_end_is_written_when_the_store_is_back_within_the_lease(site):
    job_id, worker = start(site, "slow")
    until(lambda: site.store.blocks(job_id))
    rename(site, "jobs", "hidden")
    worker.process.send_signal(signal.SIGTERM)
    until(lambda: "the store does not answer" in worker.output_tail())
    assert worker.poll() is None
    rename(site, "hidden", "jobs")
    assert exit_code(worker) == 13
    assert site.store.get(job_id).state is JobState.QUEUED


def left_of(site, job_id):
    return sorted(entry.name for entry in (site.settings.data_dir / "work" / job_id).iterdir())


def rename(site, before, after):
    """Take a table away, or bring it back: the store does not answer in between."""
    with site.store._database.writer.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {before} RENAME TO {after}")


def test_a_job_that_the_rules_of_this_release_do_not_admit_fails_with_the_reason_and_holds_up_nobody(site):
    job_id, other = site.create(), site.create()
    with site.store._database.writer.begin() as connection:
        resolved = {**site.store.get(job_id).resolved, "pruning": {"method": "gone", "sparsity": 0.5}}
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(resolved=resolved))
    dispatcher = site.dispatcher()
    until(ended(site, job_id), dispatcher)
    failure = site.store.get(job_id).failure
    assert (failure.reason, failure.retryable) == ("SPEC_NOT_UNDERSTOOD", False)
    assert "pruning.method" in failure.message
    until(ended(site, other), dispatcher)
    assert site.store.get(other).state is JobState.SUCCEEDED
