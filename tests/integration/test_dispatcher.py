"""The dispatcher with real worker processes; only their pipeline is a toy (tests/support/toy_worker.py)."""

import os
import random
import signal
import sys
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from secateur_service.control.backoff import Backoff
from secateur_service.control.dispatcher import Dispatcher
from secateur_service.control.presence import Presence
from secateur_service.executors.local import LocalExecutor
from secateur_service.jobs.agents import AgentRecord
from secateur_service.jobs.job import EventKind
from secateur_service.jobs.states import JobState
from secateur_service.metrics import attempt_figures
from secateur_service.records.needs import Capacity, Needs
from support import processes
from support.clock import Clock, let_pass
from support.jobs import result
from support.site import PYTHONPATH, Site, ended, has_block
from support.waiting import HANG_SECONDS, until

LEASE = 15.0
"""What a worker is told by a heartbeat it learns within a third of it."""

SERVER = """
import sys, time
from support.site import Site

Site(sys.argv[1], lease_seconds=15).dispatcher("started slow").start()  # to fork it would take a process more
time.sleep(3600)
"""


on_every_database = pytest.mark.parametrize("database", ["sqlite", "postgresql"])
"""For what depends on the store; the rest runs on SQLite."""


@pytest.fixture
def database():
    return "sqlite"


@pytest.fixture
def make_site(tmp_path, database, request):
    made = []

    def make(**settings):
        if database == "postgresql":
            settings["database_url"] = request.getfixturevalue("postgres").create_database()
        site = Site(tmp_path / "data", **settings)
        site.store.migrate()
        made.append(site)
        return site

    yield make
    for site in made:
        site.close()


@pytest.fixture
def site(make_site):
    return make_site(lease_seconds=LEASE, drain_seconds=HANG_SECONDS)


def test_a_queued_job_is_run_to_its_published_result_and_its_life_is_in_its_events(site):
    job_id = site.create()
    dispatcher = site.dispatcher()
    dispatcher.start()
    job = until(ended(site, job_id))
    dispatcher.drain()
    assert (job.state, job.result, job.attempt) == (JobState.SUCCEEDED, result(), 1)
    assert site.states(job_id) == ["QUEUED", "RUNNING", "SUCCEEDED"]
    assert [body["stage"] for body in site.events(job_id, EventKind.STAGE)] == ["PRUNING", "PUBLISHING"]
    assert [body["index"] for body in site.events(job_id, EventKind.BLOCK)] == [0, 1, 2]
    progress = site.events(job_id, EventKind.PROGRESS)[-1]
    assert (progress["blocks_done"], progress["blocks_total"], progress["fraction"]) == (3, 3, 1.0)
    line, figures = site.events(job_id, EventKind.LOG)
    assert figures["message"] == attempt_figures.MESSAGE
    assert figures["fields"]["object_store_requests"] == {"put OK": 1}
    assert (line["message"], line["fields"]["device"]) == ("toy pipeline", "cpu")
    assert (site.settings.data_dir / "artifacts" / job_id / "proof").read_text() == "1"


@on_every_database
def test_a_worker_that_crashes_each_time_ends_the_job_after_max_attempts_with_exit_code_and_output(site):
    job_id = site.create(max_attempts=2)
    job = until(ended(site, job_id), site.dispatcher("crash"))
    assert (job.state, job.attempt, job.charged_attempts) == (JobState.FAILED, 2, 2)
    assert (job.failure.reason, job.failure.details["exit_code"]) == ("WORKER_CRASHED", "3")
    assert "about to crash" in job.failure.details["output"]
    workdir = site.settings.data_dir / "work" / job_id
    assert sorted(entry.name for entry in workdir.iterdir()) == ["attempt-1.log", "attempt-2.log"]


@on_every_database
def test_a_killed_worker_is_seen_and_its_job_fails_after_max_attempts_with_the_signal_as_reason(site):
    job_id = site.create(max_attempts=2)
    dispatcher = site.dispatcher("deaf")
    for attempt in (1, 2):
        until(lambda: len(site.store.blocks(job_id)) == attempt, dispatcher)  # noqa: B023 - called at once
        [running] = dispatcher._running
        os.kill(running.worker.process.pid, signal.SIGKILL)
        until(lambda: site.store.get(job_id).charged_attempts == attempt, dispatcher)  # noqa: B023 - called at once
    job = site.store.get(job_id)
    assert (job.state, job.failure.reason, job.failure.details["signal"]) == (
        JobState.FAILED,
        "WORKER_KILLED",
        "SIGKILL",
    )
    assert "memory" in job.failure.message
    assert site.states(job_id) == ["QUEUED", "RUNNING", "QUEUED", "RUNNING", "FAILED"]


@on_every_database
def test_the_next_attempt_continues_at_the_first_unfinished_block(site):
    job_id = site.create()
    job = until(ended(site, job_id), site.dispatcher("crash-once"))
    assert (job.state, job.attempt, job.charged_attempts) == (JobState.SUCCEEDED, 2, 1)
    assert [body["index"] for body in site.events(job_id, EventKind.BLOCK)] == [0, 1, 2]
    assert (site.settings.data_dir / "artifacts" / job_id / "proof").read_text() == "2"


@pytest.mark.parametrize(
    ("behaviour", "reason", "charged"),
    [
        ("permanent", "NON_FINITE", 1),
        ("disk-full", "DISK_FULL", 1),
        ("memory", "OUT_OF_MEMORY", 1),
        ("defect", "INTERNAL", 1),
    ],
)
def test_a_worker_writes_the_reason_of_its_failure_itself(site, behaviour, reason, charged):
    job_id = site.create(max_attempts=1)
    job = until(ended(site, job_id), site.dispatcher(behaviour))
    assert (job.state, job.failure.reason, job.charged_attempts) == (JobState.FAILED, reason, charged)
    if behaviour == "defect":
        traceback = job.failure.details["traceback"]
        assert "after_first_block" in traceback
        assert traceback.endswith("ValueError\n"), "what a foreign exception says is for nobody"
    if behaviour == "permanent":
        assert job.failure.details == {"layer": "a"}


def test_the_work_of_a_published_job_is_removed_but_for_what_its_attempts_printed(site):
    job_id = site.create()
    dispatcher = site.dispatcher("crash-once")
    until(ended(site, job_id), dispatcher)
    until(lambda: dispatcher._executor.slots.free() == [0], dispatcher)
    workdir = site.settings.data_dir / "work" / job_id
    assert sorted(entry.name for entry in workdir.iterdir()) == ["attempt-1.log", "attempt-2.log"]


def test_failed_attempts_wait_before_the_next_one(site):
    job_id = site.create()
    dispatcher = site.dispatcher("crash", backoff=Backoff(base_seconds=1000, max_seconds=1000), rng=random.Random(0))
    until(lambda: site.states(job_id)[-1] == "QUEUED" and site.store.get(job_id).attempt == 1, dispatcher)
    for _ in range(3):
        dispatcher.reconcile()
    assert site.store.get(job_id).attempt == 1


@on_every_database
def test_a_cancelled_job_stops_within_a_heartbeat(make_site):
    site = make_site(lease_seconds=LEASE)
    job_id = site.create()
    dispatcher = site.dispatcher("slow")
    until(has_block(site, job_id), dispatcher)
    site.store.request_cancel(job_id)
    assert until(ended(site, job_id), dispatcher).state is JobState.CANCELLED
    until(lambda: dispatcher._executor.slots.free() == [0], dispatcher)
    assert site.states(job_id) == ["QUEUED", "RUNNING", "CANCELLING", "CANCELLED"]


def test_a_worker_that_ignores_the_cancellation_is_asked_and_then_killed_and_its_slot_is_free_again(make_site):
    site = make_site(cancel_grace_seconds=0.2, drain_seconds=0.2)
    job_id = site.create()
    dispatcher = site.dispatcher("deaf")
    until(has_block(site, job_id), dispatcher)
    [running] = dispatcher._running
    site.store.request_cancel(job_id)
    assert until(ended(site, job_id), dispatcher).state is JobState.CANCELLED
    assert running.worker.process.returncode == -signal.SIGKILL
    assert dispatcher._executor.slots.free() == [0]


@on_every_database
def test_a_cancellation_after_the_commit_does_not_reach_the_worker(make_site):
    site = make_site(lease_seconds=LEASE, cancel_grace_seconds=0)
    job_id = site.create()
    dispatcher = site.dispatcher("slow-after-commit")
    until(lambda: "committed" in [line["message"] for line in site.events(job_id, EventKind.LOG)], dispatcher)
    assert site.store.request_cancel(job_id).state is JobState.RUNNING
    let_pass(site.store, LEASE)
    until(lambda: site.store.max_heartbeat_age_seconds() < LEASE)  # with the worker's next heartbeat
    for _ in range(3):
        dispatcher.reconcile()
    assert site.store.get(job_id).state is JobState.RUNNING
    assert dispatcher._running[0].worker.poll() is None


@on_every_database
def test_a_worker_killed_after_the_commit_is_followed_by_one_that_succeeds_although_it_was_cancelled(site):
    job_id = site.create()
    dispatcher = site.dispatcher("slow-after-commit")
    until(lambda: "committed" in [line["message"] for line in site.events(job_id, EventKind.LOG)], dispatcher)
    [running] = dispatcher._running
    os.kill(running.worker.process.pid, signal.SIGKILL)
    assert site.store.request_cancel(job_id).state is JobState.RUNNING
    job = until(ended(site, job_id), dispatcher)
    assert (job.state, job.attempt, job.charged_attempts) == (JobState.SUCCEEDED, 2, 1)


@on_every_database
def test_draining_releases_running_jobs_uncharged_and_the_next_dispatcher_continues_them(site):
    job_id = site.create(max_attempts=1)
    dispatcher = site.dispatcher("slow-once")
    dispatcher.start()
    until(has_block(site, job_id))
    dispatcher.drain()
    job = site.store.get(job_id)
    assert (job.state, job.charged_attempts) == (JobState.QUEUED, 0)
    assert site.events(job_id, EventKind.STATE)[-1]["failure"]["reason"] == "PREEMPTED"
    assert dispatcher._running == []
    job = until(ended(site, job_id), site.dispatcher("slow-once"))
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 2)
    assert [body["index"] for body in site.events(job_id, EventKind.BLOCK)] == [0, 1, 2]


def test_draining_kills_a_worker_that_does_not_stop_and_its_job_is_not_charged(make_site):
    site = make_site(drain_seconds=0.3)
    job_id = site.create(max_attempts=1)
    dispatcher = site.dispatcher("deaf")
    dispatcher.start()
    until(has_block(site, job_id))
    dispatcher.drain()
    assert dispatcher._running == []
    job = site.store.get(job_id)
    assert (job.state, job.charged_attempts) == (JobState.QUEUED, 0)


def test_draining_says_that_a_worker_whose_process_lingers_has_succeeded(site):
    job_id = site.create()
    dispatcher = site.dispatcher("lingers")
    dispatcher.reconcile()
    until(lambda: site.store.get(job_id).state is JobState.SUCCEEDED)
    with capture_logs() as lines:
        dispatcher.drain()
    [line] = [line for line in lines if line["event"] == "worker ended"]
    assert (line["state"], line["ended"]) == (JobState.SUCCEEDED, "exit code 0")


def test_a_worker_that_was_killed_before_the_drain_is_charged(site):
    job_id = site.create()
    dispatcher = site.dispatcher("deaf", backoff=Backoff(base_seconds=1000, max_seconds=1000))
    until(has_block(site, job_id), dispatcher)
    [running] = dispatcher._running
    os.kill(running.worker.process.pid, signal.SIGKILL)
    running.worker.process.wait()
    dispatcher.drain()
    assert site.store.get(job_id).charged_attempts == 1
    assert site.events(job_id, EventKind.STATE)[-1]["failure"]["reason"] == "WORKER_KILLED"


@on_every_database
def test_a_lease_that_ran_out_for_the_last_time_removes_the_blocks(site):
    job_id = site.create(max_attempts=1)
    site.store.claim(owner="a server that was killed", lease_seconds=60)
    site.store.heartbeat(job_id, 1, lease_seconds=60)
    let_pass(site.store, 61)
    work = site.settings.data_dir / "work" / job_id / "checkpoint"
    work.mkdir(parents=True)
    job = until(ended(site, job_id), site.dispatcher())
    assert (job.state, job.failure.reason) == (JobState.FAILED, "LEASE_EXPIRED")
    assert not work.exists()


def test_nothing_is_claimed_while_all_slots_are_busy(site):
    jobs = [site.create() for _ in range(2)]
    dispatcher = site.dispatcher("slow")
    until(has_block(site, jobs[0]), dispatcher)
    for _ in range(5):
        dispatcher.reconcile()
    assert site.store.get(jobs[1]).state is JobState.QUEUED


def test_two_slots_run_two_jobs_at_once(make_site):
    site = make_site(devices=("cpu", "cpu"))
    jobs = [site.create() for _ in range(3)]
    dispatcher = site.dispatcher("slow")
    until(lambda: all(site.store.blocks(job) for job in jobs[:2]), dispatcher)
    assert [site.store.get(job).state.value for job in jobs] == ["RUNNING", "RUNNING", "QUEUED"]
    assert sorted(running.worker.slot for running in dispatcher._running) == [0, 1]


def test_the_orphan_of_a_killed_server_keeps_its_slot_and_its_job_and_the_successor_waits(site):
    """The first server is a process of its own and dies by kill -9 while its worker runs on."""
    first, second = site.create(), site.create()
    server = processes.start(
        [
            sys.executable,
            "-c",
            SERVER,
            str(site.settings.data_dir),
        ],
        env={"PYTHONPATH": PYTHONPATH},
    )
    until(has_block(site, first))
    server.kill()
    server.wait()
    dispatcher = site.dispatcher("finish")
    for _ in range(10):
        dispatcher.reconcile()
    assert dispatcher._executor.slots.free() == []
    assert site.store.get(first).state is JobState.RUNNING
    assert site.store.get(second).state is JobState.QUEUED
    site.store.request_cancel(first)  # the orphan still listens to the store
    assert until(ended(site, first), dispatcher).state is JobState.CANCELLED
    assert until(ended(site, second), dispatcher).state is JobState.SUCCEEDED


@on_every_database
def test_a_stopped_worker_loses_its_lease_and_writes_nothing_when_it_wakes_up(make_site):
    site = make_site(lease_seconds=LEASE, devices=("cpu", "cpu"))
    job_id = site.create()
    fenced = []
    dispatcher = site.dispatcher("slow", on_fenced=lambda: fenced.append(1))
    # Not in the middle of a transaction: SQLite has one writer, and a stopped one keeps all others waiting.
    until(lambda: site.events(job_id, EventKind.PROGRESS), dispatcher)
    [running] = dispatcher._running
    process = running.worker.process
    os.kill(process.pid, signal.SIGSTOP)
    let_pass(site.store, LEASE)
    [expired] = site.store.expire_leases()
    assert expired.state is JobState.QUEUED
    before = site.store.get(job_id)
    os.kill(process.pid, signal.SIGCONT)
    until(lambda: process.poll() is not None)
    assert process.returncode == 14
    assert site.store.get(job_id) == before
    dispatcher._reap()
    assert fenced == [1]


def test_a_worker_that_stays_stopped_does_not_keep_the_next_attempt_from_the_work_directory(make_site):
    site = make_site(lease_seconds=LEASE, devices=("cpu", "cpu"))
    job_id = site.create()
    dispatcher = site.dispatcher("slow-once")
    until(lambda: site.events(job_id, EventKind.PROGRESS), dispatcher)
    [running] = dispatcher._running
    os.kill(running.worker.process.pid, signal.SIGSTOP)
    let_pass(site.store, LEASE)
    job = until(ended(site, job_id), dispatcher)
    assert (job.state, job.attempt, job.charged_attempts) == (JobState.SUCCEEDED, 2, 1)
    until(lambda: running.worker.process.poll() == -signal.SIGKILL)


@on_every_database
def test_a_worker_that_hangs_although_its_heart_beats_is_given_up_and_replaced(make_site):
    site = make_site(lease_seconds=7200)
    job_id = site.create()
    dispatcher = site.dispatcher("slow-once", stall_seconds=3600)
    until(lambda: site.events(job_id, EventKind.PROGRESS), dispatcher)
    let_pass(site.store, 3600)
    job = until(ended(site, job_id), dispatcher)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 2)
    reasons = [body["failure"]["reason"] for body in site.events(job_id, EventKind.STATE) if body.get("failure")]
    assert reasons == ["STALLED"]


def test_the_worker_of_a_job_whose_time_is_over_is_stopped_and_its_blocks_are_removed(make_site):
    site, clock = make_site(lease_seconds=7200), Clock()
    job_id = site.create(run_deadline_seconds=3600)
    dispatcher = site.dispatcher("slow", monotonic=clock)
    until(has_block(site, job_id), dispatcher)
    let_pass(site.store, 3600)
    job = until(ended(site, job_id), dispatcher)
    assert (job.state, job.failure.reason) == (JobState.FAILED, "RUN_DEADLINE_EXCEEDED")
    clock.now += 60
    until(lambda: not dispatcher._running, dispatcher)
    assert not (site.settings.data_dir / "work" / job_id / "checkpoint").exists()


def test_a_dispatcher_outlives_a_store_that_does_not_answer(site):
    site.store.migrate(back_to="base")
    dispatcher = site.dispatcher()
    with capture_logs() as lines:
        dispatcher.start()  # there are no tables: every call fails
        until(lambda: [line for line in lines if line["event"].startswith("dispatcher could not")])
    site.store.migrate()
    job_id = site.create()
    assert until(ended(site, job_id)).state is JobState.SUCCEEDED
    dispatcher.drain()


def test_a_worker_that_cannot_be_started_charges_the_job_with_the_reason(site):
    job_id = site.create(max_attempts=1)
    executor = LocalExecutor(site.settings, command=("/nonexistent/python",), environment={})
    Dispatcher(site.store, executor, owner="test").reconcile()
    job = site.store.get(job_id)
    assert (job.state, job.failure.reason) == (JobState.FAILED, "WORKER_NOT_STARTED")


def test_workers_see_the_settings_and_what_the_network_needs_and_no_other_variable_of_the_server(site, monkeypatch):
    command = (sys.executable, "-c", "import os, json; print(json.dumps(dict(os.environ)))")
    environment = {"PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "hidden", "SECATEUR_SETTINGS_FILE": "/etc/secateur.toml"}
    environment["https_proxy"] = "http://proxy:3128"  # the hub may lie behind one
    worker = LocalExecutor(site.settings, command=command, environment=environment).start("job", 1, 0)
    worker.process.wait()
    seen = worker.output_tail()
    assert "hidden" not in seen
    assert "SETTINGS_FILE" not in seen
    assert '"https_proxy": "http://proxy:3128"' in seen
    for name, text in site.settings.worker_environment().items():
        assert f'"{name}": "{text}"' in seen


def test_a_dispatcher_announces_itself_and_takes_only_what_fits_its_slots(make_site):
    site = make_site()
    small = AgentRecord("small:1", "small", "1", slots=1, busy=0, capacity=Capacity(0, 0, 10**9, 10**12))
    presence = Presence(site.store.agents, small)
    large = site.create(needs=Needs(host_bytes=2 * 10**9))
    fitting = site.create(needs=Needs(host_bytes=10**9))
    dispatcher = site.dispatcher("slow", presence=presence)
    dispatcher.reconcile()
    (seen,) = site.store.agents.seen(60)
    assert replace(seen, heartbeat=None) == replace(small, busy=1)
    assert site.store.get(fitting).state is JobState.RUNNING
    assert site.store.get(large).state is JobState.QUEUED
    dispatcher.drain()
    (gone,) = site.store.agents.seen(60)
    assert (gone.slots, gone.draining) == (0, True)
    assert site.store.get(fitting).state is JobState.QUEUED
    again = site.dispatcher("finish", presence=Presence(site.store.agents, small))
    again.start()
    until(ended(site, fitting))
    again.drain()
    assert site.store.get(large).attempt == 0
