"""Releases that follow each other on one database: upgrades from every older schema, replicas side by side, rollbacks.

The next release is a copy of this one with a migration more, see `support.releases`. `older/` has what releases of
every older schema left behind, see its README.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import torch
from sqlalchemy import MetaData, create_engine, insert

import secateur
from secateur_service.jobs.job import EventKind
from secateur_service.jobs.migration import upgrade
from secateur_service.jobs.states import JobState
from secateur_service.jobs.store import open_job_store
from support.jobs import block, new_job
from support.models import save_corpora, save_model, spec_data
from support.releases import HEAD, NEXT, next_release, this_release
from support.service import WITH_WORKERS, Service, checkpoint_digests
from support.waiting import HANG_SECONDS, until

OLDER = Path(__file__).with_name("older")
BLOCKS = 8


@pytest.fixture
def serve(tmp_path, database_url):
    """Starts services of a release; those of one name take over from each other, data folder and all."""
    with ExitStack() as services:

        def start(release, toy="finish", *, name="a", **settings):
            folder = tmp_path / name
            folder.mkdir(exist_ok=True)
            common = {
                "SECATEUR_DATABASE_URL": database_url,
                "SECATEUR_DESTINATIONS": (tmp_path / "results").as_uri(),
            }
            service = Service(
                folder,
                file_root=tmp_path / "files",
                toy=toy,
                started=release != this_release(),
                **{**WITH_WORKERS, **common, **release, **settings},
            )
            services.callback(service.close)
            return service

        yield start


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    files = tmp_path_factory.mktemp("tiny")
    shape = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "num_hidden_layers": BLOCKS}
    save_model(files / "model", "llama", dtype=torch.bfloat16, **shape)
    save_corpora(files)
    return files


@pytest.fixture
def data(tiny, tmp_path):
    (tmp_path / "files").symlink_to(tiny)
    return spec_data(tiny / "model", tiny / "calibration", tiny / "evaluation", method="sparsegpt", sparsity=0.5)


def history(store, job_id):
    """All events of a job, without a gap."""
    events = store.events(job_id, after=0, limit=1000)
    assert [event.sequence for event in events] == list(range(1, store.get(job_id).last_sequence + 1))
    return events


def blocks(store, job_id):
    return [event.body["index"] for event in history(store, job_id) if event.kind is EventKind.BLOCK]


def succeeded(store, job_id):
    def ended():
        state = store.get(job_id).state
        assert state in (JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED)
        return state is JobState.SUCCEEDED

    until(ended)
    return True


def let_go(service, job_id):
    (service.data_dir / "work" / job_id / "go").touch()


def create(service):
    destination = service.settings["SECATEUR_DESTINATIONS"]
    return service.store.create(new_job(destination=destination)).id


def command(release, *arguments, **settings):
    return subprocess.run(
        [sys.executable, "-m", "secateur_service", *arguments],
        env={**os.environ, **release, **settings},
        capture_output=True,
        text=True,
        check=False,
    )


def restore(text, url):
    """Fill a database with what an older release left."""
    older = json.loads(text)
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        upgrade(connection, older["revision"])
        tables = MetaData()
        tables.reflect(connection)
        for name, rows in older["tables"].items():
            connection.execute(insert(tables.tables[name]), rows)
            if engine.dialect.name == "postgresql" and name != "blocks":
                key = "position" if name == "events" else "number"
                connection.exec_driver_sql(
                    f"SELECT setval(pg_get_serial_sequence('{name}', '{key}'), (SELECT max({key}) FROM {name}))"
                )
    engine.dispose()
    return older["jobs"]


@pytest.mark.parametrize(
    ("database_url", "revision"),
    [("sqlite", "0001"), ("sqlite", "0002"), ("sqlite", "0003"), ("sqlite", "0004"), ("postgresql", "0001")],
    indirect=["database_url"],
)
def test_an_older_database_is_migrated_and_its_half_finished_job_goes_on(revision, database_url, serve, tmp_path):
    data_dir = tmp_path / "a" / "data"
    text = (OLDER / f"{revision}.json").read_text(encoding="utf-8")
    (tmp_path / "files").mkdir()
    jobs = restore(text.replace("{data_dir}", str(data_dir)), database_url)
    shard = data_dir / "work" / jobs["half_finished"] / "checkpoint" / block(0).shard
    shard.parent.mkdir(parents=True)
    shard.touch()
    service = serve(this_release())
    store = service.store
    for name in ("half_finished", "queued"):
        assert succeeded(store, jobs[name])
        assert blocks(store, jobs[name]) == [0, 1, 2]
    assert store.get(jobs["half_finished"]).attempt == 2
    with secateur.Client(service.endpoint) as client:
        ended = {name: client.job(jobs[name]).get() for name in ("succeeded", "failed", "cancelled")}
        assert [str(job.state).lower() for job in ended.values()] == list(ended)
        assert ended["succeeded"].result.languages["de"].pruned_perplexity == 12.5
        assert ended["failed"].failure.details == {"layer": "a"}
        for job in ended.values():
            seen = list(client.job(job.name).watch(after_sequence=0))
            assert [event.sequence for event in seen] == list(range(1, job.last_sequence + 1))
            assert str(seen[-1].state) == str(job.state)
        assert len(list(client.list_jobs())) == len(jobs)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_jobs_go_on_through_an_upgrade_and_the_rollback_after_it(serve, database_url, tmp_path):
    (tmp_path / "files").mkdir()
    old, new = this_release(), next_release(tmp_path / "next")

    service = serve(old, "slow-once")
    store, first = service.store, create(service)
    until(lambda: store.blocks(first))
    service.kill()
    service.lose_workers()

    service = serve(new, "slow-once")
    assert succeeded(store, first)
    second = create(service)
    until(lambda: len(store.blocks(second)) == 1)
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(HANG_SECONDS) == 0

    service = serve(old)
    assert "schema of a newer release" in (service.folder / "log").read_text()
    assert succeeded(store, second)
    assert succeeded(store, create(service))
    for job_id in (first, second):
        assert blocks(store, job_id) == [0, 1, 2]
        assert store.get(job_id).attempt == 2
    told = [event.body for event in history(store, second) if event.kind is EventKind.LOG]
    assert {"level": "info", "message": "trace, an event of a newer release", "fields": {"span": "ab12"}} in told
    with secateur.Client(service.endpoint) as client:
        seen = list(client.job(second).watch(after_sequence=0))
        assert [event.sequence for event in seen] == list(range(1, store.get(second).last_sequence + 1))
    assert command(old, "migrate", SECATEUR_DATABASE_URL=database_url).stdout.endswith(
        f"is at revision {NEXT} of a newer release, which this one may use\n"
    )


def test_a_worker_of_the_old_release_finishes_its_job_while_the_new_one_migrates_and_serves(serve, tmp_path):
    (tmp_path / "files").mkdir()
    service = serve(this_release(), "patient")
    store, job_id = service.store, create(service)
    until(lambda: store.blocks(job_id))
    [worker] = service.worker_pids()
    service.kill()
    service = serve(next_release(tmp_path / "next"), "patient")
    assert service.worker_pids() == [worker]
    let_go(service, job_id)
    assert succeeded(store, job_id)
    assert store.get(job_id).attempt == 1


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_replicas_of_both_releases_run_a_job_each_and_answer_for_both(serve, tmp_path):
    (tmp_path / "files").mkdir()
    replicas = [serve(this_release(), "patient", name="old")]
    replicas.append(serve(next_release(tmp_path / "next"), "patient", name="new"))
    store = replicas[0].store
    jobs = [create(replica) for replica in replicas]
    until(lambda: all(store.blocks(job_id) for job_id in jobs))
    for replica in replicas:
        [job_id] = [job_id for job_id in jobs if (replica.data_dir / "work" / job_id).exists()]
        let_go(replica, job_id)
    for job_id in jobs:
        assert succeeded(store, job_id)
        assert (store.get(job_id).attempt, blocks(store, job_id)) == (1, [0, 1, 2])
    for replica in replicas:
        with secateur.Client(replica.endpoint) as client:
            for job_id in jobs:
                assert str(client.job(job_id).wait(timeout_seconds=HANG_SECONDS).state) == "SUCCEEDED"


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_job_in_a_newer_format_is_shown_and_cancelled_by_the_old_release_and_run_by_the_new_one(
    serve, data, tmp_path
):
    new = next_release(tmp_path / "next", changes_specifications=True)
    service = serve(new, name="new", SECATEUR_DEVICES="")
    store = service.store
    with secateur.Client(service.endpoint) as client:
        unwanted, wanted = (client.submit(data).name for _ in range(2))
    old = serve(this_release(), name="old")
    with secateur.Client(old.endpoint) as client:
        job = client.submit(data)
        assert str(job.wait(timeout_seconds=HANG_SECONDS).state) == "SUCCEEDED"
        assert {name: str(client.job(name).get().state) for name in (unwanted, wanted)} == {
            unwanted: "QUEUED",
            wanted: "QUEUED",
        }
        assert store.oldest_queued_age_seconds() > 0
        assert {found.name for found in client.list_jobs()} == {unwanted, wanted, job.name}
        assert client.job(wanted).get().resolved_spec["pruning"]["method"] == "sparsegpt"
        assert str(client.job(unwanted).cancel().state) == "CANCELLED"
        with pytest.raises(secateur.PreconditionError, match="newer release"):
            client.job(unwanted).retry()
    old.close()
    service.kill()
    serve(new, name="new")
    assert succeeded(store, wanted.removeprefix("pruneJobs/"))


def test_a_release_that_may_not_use_the_schema_refuses_it_and_says_what_to_do(database_url, tmp_path):
    new = next_release(tmp_path / "next", contracts=True)
    settings = {
        "SECATEUR_DATABASE_URL": database_url,
        "SECATEUR_DATA_DIR": str(tmp_path),
        "SECATEUR_METRICS_LISTEN": "",
    }
    with closing(open_job_store(database_url)) as store:
        store.migrate()
        assert command(new, "migrate", **settings).returncode == 0
        for refused in (["migrate"], ["serve", "--listen", "127.0.0.1:0"]):
            ended = command(this_release(), *refused, **settings)
            assert ended.returncode == 1
            assert f"at revision {NEXT} of a newer release, which takes code from revision {NEXT} on" in ended.stderr
            assert f"this release has {HEAD}. Install the release that was there before" in ended.stderr
            assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_real_job_that_the_new_release_began_is_finished_after_the_rollback_with_the_same_bytes(
    serve, data, tmp_path
):
    service = serve(next_release(tmp_path / "next"), None)
    with secateur.Client(service.endpoint, reconnect_seconds=HANG_SECONDS) as client:
        undisturbed = client.submit(data).result(timeout_seconds=HANG_SECONDS)
        job = client.submit(data)
        job_id = job.name.removeprefix("pruneJobs/")
        until(lambda: len(service.store.blocks(job_id)) >= 3)
        service.kill()
        service.lose_workers()
    service = serve(this_release(), None)
    with secateur.Client(service.endpoint) as client:
        result = client.job(job.name).result(timeout_seconds=HANG_SECONDS)
    assert service.store.get(job_id).attempt == 2
    assert blocks(service.store, job_id).count(0) == 1, "what the new release had finished is computed again"
    assert checkpoint_digests(result) == checkpoint_digests(undisturbed) != {}
