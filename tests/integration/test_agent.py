"""Agents as a scheduler starts and ends them. What the replicas do beside them, the tests do: they expire leases."""

import os
import signal

import pytest
from sqlalchemy import select

from secateur_service.jobs.job import EventKind
from secateur_service.jobs.schema import jobs
from secateur_service.jobs.states import JobState
from support.agents import Agent
from support.clock import let_pass
from support.forking import run_command
from support.site import Site, ended, has_block
from support.waiting import HANG_SECONDS, until

LEASE = 15.0


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path / "data", lease_seconds=LEASE, drain_seconds=HANG_SECONDS)
    site.store.migrate()
    yield site
    site.close()


@pytest.fixture
def start(site):
    started = []

    def start(*arguments, **given):
        started.append(Agent(site, *arguments, **given))
        return started[-1]

    yield start
    for agent in started:
        agent.close()


def blocks(site, job_id):
    return [body["index"] for body in site.events(job_id, EventKind.BLOCK)]


def last_failure(site, job_id):
    return site.events(job_id, EventKind.STATE)[-1]["failure"]


def seen(site):
    return site.store.agents.seen(600)


def test_an_agent_runs_what_is_queued_says_that_it_is_there_and_ends_when_it_is_idle(site, start):
    queued = [site.create() for _ in range(2)]
    agent = start("--idle-seconds", "0")
    assert agent.wait() == 0
    for job_id in queued:
        job = site.store.get(job_id)
        assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)
    assert not list(site.settings.data_dir.glob("work/*/checkpoint"))
    [record] = seen(site)
    assert (record.slots, record.draining, record.capacity.devices) == (0, True, 0)
    assert not agent.ready.exists()


def test_an_agent_that_is_to_run_one_job_leaves_the_next_and_what_a_crashed_worker_printed_is_in_the_store(site, start):
    first, second = site.create(), site.create()
    assert start("--once", toy="crash", SECATEUR_DEVICES="cpu,cpu").wait() == 0
    assert (site.store.get(first).state, site.store.get(first).charged_attempts) == (JobState.QUEUED, 1)
    assert "about to crash" in last_failure(site, first)["details"]["output"]
    assert site.store.get(second).attempt == 0


@pytest.mark.parametrize("whole_group", [False, True])
def test_a_signal_ends_an_agent_as_it_ends_a_server_and_the_job_goes_on_from_its_blocks(site, start, whole_group):
    job_id = site.create(max_attempts=1)
    agent = start("--once", toy="slow-once")
    until(has_block(site, job_id))
    [record] = seen(site)
    assert (record.slots, record.busy, record.draining) == (1, 1, False)
    assert agent.ready.exists()
    if whole_group:  # as Slurm and Ray do
        agent.kill_group(signal.SIGTERM)
    else:
        agent.process.terminate()
    assert agent.wait() == 13
    job = site.store.get(job_id)
    assert (job.state, job.charged_attempts) == (JobState.QUEUED, 0)
    assert last_failure(site, job_id)["reason"] == "PREEMPTED"
    until(lambda: not agent.below())
    assert start("--once", toy="slow-once").wait() == 0
    assert site.store.get(job_id).state is JobState.SUCCEEDED
    assert blocks(site, job_id) == [0, 1, 2]


def test_a_scheduler_that_tells_a_whole_group_to_end_while_a_worker_starts_costs_nothing(site, start):
    job_id = site.create(max_attempts=1)
    agent = start(toy="late finish")
    until(lambda: list(site.settings.data_dir.glob("starting-*")))
    agent.kill_group(signal.SIGINT)  # the worker does not hear this one: the agent tells it
    assert agent.wait() == 0  # nothing else would have ended it
    job = site.store.get(job_id)
    assert (job.state, job.charged_attempts) == (JobState.QUEUED, 0)
    assert last_failure(site, job_id)["reason"] == "PREEMPTED"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_an_agent_and_a_worker_that_does_not_listen_at_once(site, start, number):
    job_id = site.create()
    agent = start(toy="deaf")
    until(has_block(site, job_id))
    agent.process.send_signal(number)
    until(lambda: agent.said("draining"))
    assert agent.below()
    until(lambda: agent.process.poll() is not None or agent.process.send_signal(number))
    assert agent.wait() == -number
    until(lambda: not agent.below())


@pytest.mark.parametrize("whole_group", [False, True])
def test_a_killed_agent_leaves_no_process_and_another_of_the_machine_goes_on_from_the_blocks(site, start, whole_group):
    job_id = site.create()
    agent = start(toy="slow-once")
    until(has_block(site, job_id))
    assert agent.below()
    if whole_group:
        agent.kill_group()
    else:
        agent.process.kill()
    until(lambda: not agent.below())
    let_pass(site.store, LEASE)
    [expired] = site.store.expire_leases()
    assert expired.id == job_id
    assert start("--once", toy="slow-once").wait() == 0
    job = site.store.get(job_id)
    assert (job.state, job.attempt, job.charged_attempts) == (JobState.SUCCEEDED, 2, 1)
    assert blocks(site, job_id) == [0, 1, 2]


def test_a_worker_that_only_starts_ends_with_a_killed_agent_and_its_job_is_not_charged(site, start):
    site.create(max_attempts=1)
    agent = start(toy="late finish")
    until(lambda: list(site.settings.data_dir.glob("starting-*")))
    assert agent.below()
    agent.process.kill()
    until(lambda: not agent.below())
    let_pass(site.store, LEASE)
    [expired] = site.store.expire_leases()
    assert (expired.state, expired.charged_attempts) == (JobState.QUEUED, 0)


def test_an_agent_keeps_the_lease_of_a_worker_that_takes_longer_than_it_to_start(site, start):
    def lease_end():
        with site.store._database.reader.connect() as connection:
            return connection.execute(select(jobs.c.lease_end - site.store._database.now)).scalar_one()

    job_id = site.create(max_attempts=1)
    agent = start("--once", toy="late finish")
    until(lambda: list(site.settings.data_dir.glob("starting-*")))
    let_pass(site.store, 2 * LEASE)
    until(lambda: lease_end() > 0)  # with the agent's next pass that extends it
    assert site.store.expire_leases() == []
    (site.settings.data_dir / "begin").touch()
    assert agent.wait() == 0
    job = site.store.get(job_id)
    assert (job.state, job.attempt, job.charged_attempts) == (JobState.SUCCEEDED, 1, 0)


def test_two_agents_of_one_machine_with_one_data_folder_run_a_job_each(site, start):
    both = [site.create() for _ in range(2)]
    agents = [start("--once", toy="patient") for _ in both]
    until(lambda: all(site.store.blocks(job_id) for job_id in both))
    assert sorted(record.busy for record in seen(site)) == [1, 1]
    for job_id in both:
        (site.settings.data_dir / "work" / job_id / "go").touch()
    assert [agent.wait() for agent in agents] == [0, 0]
    assert [site.store.get(job_id).state for job_id in both] == [JobState.SUCCEEDED] * 2


def test_an_agent_outlives_a_store_that_does_not_answer_and_leaves_the_schema_to_others(site, start):
    agent = start("--once")
    until(agent.ready.exists)
    site.store.migrate(back_to="base")
    until(lambda: agent.said("dispatcher could not start workers"))
    refused = start("--once")
    assert refused.wait() == 1
    assert refused.said("the agent cannot start: the job store cannot be opened: the job store is empty")
    assert refused.said("secateur-service migrate")
    site.store.migrate()
    job_id = site.create()
    assert until(ended(site, job_id)).state is JobState.SUCCEEDED
    assert agent.wait() == 0


def test_an_agent_removes_the_work_of_jobs_that_have_ended_elsewhere(site, start):
    gone, waiting = site.create(), site.create(queue_deadline_seconds=3600)
    site.store.request_cancel(gone)
    folders = {job_id: site.settings.data_dir / "work" / job_id / "checkpoint" for job_id in (gone, waiting)}
    for folder in folders.values():
        folder.mkdir(parents=True)
    start(toy="slow")
    until(lambda: not folders[gone].exists())
    assert folders[waiting].exists()


REFUSED = {
    "no data folder": (["--data-dir", "/dev/null/x"], {}, 1, "the data folder /dev/null/x cannot be written"),
    "no database": (
        [],
        {"SECATEUR_DATABASE_URL": "sqlite:////nowhere/x.sqlite3"},
        1,
        "there is no job store /nowhere/x",
    ),
    "another kind of database": (
        [],
        {"SECATEUR_DATABASE_URL": "mysql://u:p@h/d"},
        2,
        "names mysql, which is not supported",
    ),
    "a port that is no number": ([], {"SECATEUR_DATABASE_URL": "postgresql://h:x/d"}, 2, "not a database URL"),
    "a device that is not there": ([], {"SECATEUR_DEVICES": "cuda:0"}, 2, "cuda:0 is not here"),
    "a name that no column holds": (["--name", "n" * 300], {}, 2, "--name: use up to 100 letters"),
    "no name": (["--name", ""], {}, 2, "--name: use up to 100 letters"),
}


@pytest.mark.parametrize("given", REFUSED)
def test_an_agent_that_could_run_nothing_does_not_start_and_leaves_no_ready_file(tmp_path, given):
    arguments, variables, code, told = REFUSED[given]
    ready = tmp_path / "ready"
    ready.write_text("of one that was killed")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "SECATEUR_DATA_DIR": str(tmp_path / "data"), **variables}
    command = ["agent", "--once", "--ready-file", str(ready), *arguments]
    ended = run_command(command, tmp_path, environment=environment)
    assert ended.returncode == code, ended.stderr
    assert told in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.rglob("*.sqlite3"))
    assert ready.exists() == (code == 2)  # what it would do is not even known


def test_a_ready_file_that_cannot_be_replaced_is_no_defect(site, start, tmp_path):
    agent = start("--once", "--ready-file", str(tmp_path))
    assert agent.wait() == 1
    assert agent.said(f"the ready file {tmp_path} cannot be replaced")
