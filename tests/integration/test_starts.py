"""The start of an attempt, from its claim to its worker's first heartbeat, takes as long as it takes."""

import subprocess
import sys

import pytest

from secateur_service.control.dispatcher import Dispatcher
from secateur_service.jobs.job import EventKind
from secateur_service.jobs.states import JobState
from support import processes
from support.clock import Clock, let_pass
from support.site import PYTHONPATH, Site, ended
from support.waiting import until

LEASE = 60.0

SERVER = """
import sys, time
from support.site import Site

Site(sys.argv[1], **({"database_url": sys.argv[2]} if sys.argv[2:] else {})).dispatcher("late finish").start()
time.sleep(3600)
"""


@pytest.fixture
def site(tmp_path, database_url):
    site = Site(tmp_path / "data", lease_seconds=LEASE, start_seconds=300, database_url=database_url)
    site.store.migrate()
    yield site
    site.close()


def starting(site):
    """The processes that have come as far as loading."""
    return [int(path.name.removeprefix("starting-")) for path in site.settings.data_dir.glob("starting-*")]


def begin(site):
    (site.settings.data_dir / "begin").touch()


def reasons(site, job_id):
    return [body["failure"]["reason"] for body in site.events(job_id, EventKind.STATE) if body.get("failure")]


@pytest.mark.parametrize("leases", [0.9, 4])
def test_an_attempt_whose_worker_takes_longer_than_its_lease_to_start_is_neither_lost_nor_charged(site, leases):
    clock = Clock()
    job_id = site.create(max_attempts=1)
    dispatcher = site.dispatcher("late finish", monotonic=clock)
    until(lambda: starting(site), dispatcher)
    for _ in range(round(10 * leases)):
        clock.now += LEASE / 10
        let_pass(site.store, LEASE / 10)
        dispatcher.reconcile()
    assert site.store.max_heartbeat_age_seconds() == 0
    begin(site)
    job = until(ended(site, job_id), dispatcher)
    assert (job.state, job.attempt, job.charged_attempts) == (JobState.SUCCEEDED, 1, 0)
    assert reasons(site, job_id) == []


def test_a_pass_that_comes_later_than_the_lease_ends_keeps_its_own_attempts_that_start(site):
    clock = Clock()
    job_id = site.create()
    dispatcher = site.dispatcher("late finish", monotonic=clock)
    until(lambda: starting(site), dispatcher)
    clock.now += 2 * LEASE
    let_pass(site.store, 2 * LEASE)
    begin(site)
    assert until(ended(site, job_id), dispatcher).attempt == 1


class SlowExecutor:
    """An executor to which something happens while it starts a process."""

    def __init__(self, executor, happens):
        self.slots, self.folders = executor.slots, executor.folders
        self._executor, self._happens = executor, happens

    def start(self, *arguments):
        self._happens()
        return self._executor.start(*arguments)


def test_an_attempt_whose_process_takes_longer_than_its_lease_to_be_started_is_kept(site):
    clock = Clock()

    def loaded():
        clock.now += LEASE
        let_pass(site.store, LEASE)

    job_id = site.create(max_attempts=1)
    executor = SlowExecutor(site.executor("late finish"), loaded)
    dispatcher = Dispatcher(site.store, executor, owner="test", lease_seconds=LEASE, monotonic=clock)
    site.dispatchers.append(dispatcher)
    dispatcher.reconcile()
    dispatcher.reconcile()
    assert reasons(site, job_id) == []
    assert site.store.get(job_id).state is JobState.RUNNING


def test_work_that_begins_late_has_its_whole_time_before_it_counts_as_stalled(site):
    clock = Clock()
    job_id = site.create()
    dispatcher = site.dispatcher("late slow", monotonic=clock, stall_seconds=LEASE)
    until(lambda: starting(site), dispatcher)
    clock.now += 2 * LEASE
    let_pass(site.store, 2 * LEASE)
    begin(site)
    until(lambda: site.events(job_id, EventKind.PROGRESS), dispatcher)
    dispatcher.reconcile()
    assert reasons(site, job_id) == []
    site.store.request_cancel(job_id)
    for running in dispatcher._running:
        running.worker.terminate()
    assert until(ended(site, job_id), dispatcher).attempt == 1


def test_a_worker_that_does_not_begin_in_time_is_killed_and_replaced_uncharged(site):
    clock = Clock()
    job_id = site.create(max_attempts=1)
    dispatcher = site.dispatcher("late finish", monotonic=clock)
    [first] = until(lambda: starting(site), dispatcher)
    clock.now += 299
    dispatcher.reconcile()
    assert site.store.get(job_id).attempt == 1
    clock.now += 1
    until(lambda: len(starting(site)) == 2, dispatcher)
    begin(site)
    job = until(ended(site, job_id), dispatcher)
    assert (job.state, job.attempt, job.charged_attempts) == (JobState.SUCCEEDED, 2, 0)
    assert reasons(site, job_id) == ["START_TIMEOUT"]
    assert first not in [running.worker.process.pid for running in dispatcher._running]


def test_a_cancelled_job_whose_worker_does_not_begin_in_time_is_cancelled(site):
    clock = Clock()
    job_id = site.create()
    dispatcher = site.dispatcher("late finish", monotonic=clock)
    until(lambda: starting(site), dispatcher)
    site.store.request_cancel(job_id)
    clock.now += 300
    assert until(ended(site, job_id), dispatcher).state is JobState.CANCELLED
    until(lambda: not dispatcher._running, dispatcher)


def test_draining_ends_a_worker_that_starts_at_once_and_uncharged(site):
    job_id = site.create(max_attempts=1)
    dispatcher = site.dispatcher("late finish")
    until(lambda: starting(site), dispatcher)
    dispatcher.drain()
    assert dispatcher._running == []
    job = site.store.get(job_id)
    assert (job.state, job.charged_attempts) == (JobState.QUEUED, 0)
    assert reasons(site, job_id) == ["PREEMPTED"]


def killed_while_its_worker_starts(site):
    """A server of its own, killed by SIGKILL; its worker lives."""
    url = site.settings.database_url
    command = [sys.executable, "-c", SERVER, str(site.settings.data_dir), url]
    server = subprocess.Popen(command, env={"PYTHONPATH": PYTHONPATH})
    try:
        until(lambda: starting(site))
    finally:
        server.kill()
        server.wait()


def test_when_the_server_is_killed_its_worker_that_starts_goes_on_where_nobody_has_seen_the_lease_end(site):
    job_id = site.create(max_attempts=1)
    killed_while_its_worker_starts(site)
    let_pass(site.store, 2 * LEASE)
    begin(site)
    job = until(ended(site, job_id))
    assert (job.state, job.attempt, job.charged_attempts) == (JobState.SUCCEEDED, 1, 0)


def test_when_the_server_is_killed_another_attempt_takes_over_uncharged_and_the_orphan_is_fenced(site):
    job_id = site.create(max_attempts=1)
    killed_while_its_worker_starts(site)
    [orphan] = starting(site)
    let_pass(site.store, 2 * LEASE)
    dispatcher = site.dispatcher("late finish")
    until(lambda: len(starting(site)) == 2, dispatcher)
    begin(site)
    job = until(ended(site, job_id), dispatcher)
    assert (job.state, job.attempt, job.charged_attempts) == (JobState.SUCCEEDED, 2, 0)
    assert reasons(site, job_id) == ["LEASE_EXPIRED"]
    assert (site.settings.data_dir / "artifacts" / job_id / "proof").read_text() == "2"
    log = site.settings.data_dir / "work" / job_id / "attempt-1.log"
    until(lambda: "FENCED" in log.read_text())
    until(lambda: not processes.is_running(orphan))


def test_two_workers_for_one_slot_cost_neither_job_an_attempt(site):
    """A restarted server does not see the slot of an orphan that is still loading."""
    first, second = site.create(max_attempts=1), site.create(max_attempts=1)
    killed_while_its_worker_starts(site)
    dispatcher = site.dispatcher("late finish")
    until(lambda: len(starting(site)) == 2, dispatcher)
    begin(site)
    for job_id in (first, second):
        job = until(ended(site, job_id), dispatcher)
        assert (job.state, job.charged_attempts) == (JobState.SUCCEEDED, 0)
