"""A database that was copied in the middle of a job, as docs/operations.md says, is enough to go on with."""

import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

import secateur
from secateur_service.jobs.job import EventKind
from secateur_service.jobs.states import JobState
from support.clock import let_pass
from support.jobs import new_job
from support.releases import this_release
from support.service import LEASE_SECONDS, WITH_WORKERS, Service
from support.waiting import until


def dump(service, url, tmp_path, postgres):
    run = [str(postgres.programs / "pg_dump"), "--format=custom", f"--file={tmp_path}/secateur.backup", url]
    subprocess.run(run, check=True, capture_output=True)


def restore_dump(tmp_path, postgres):
    url = postgres.create_database()
    options = ["--exit-on-error", "--no-owner", "--no-privileges", f"--dbname={url}", f"{tmp_path}/secateur.backup"]
    subprocess.run([str(postgres.programs / "pg_restore"), *options], check=True, capture_output=True)
    return url


def vacuum(service, url, tmp_path, postgres):
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        connection.execute("VACUUM INTO ?", (str(tmp_path / "secateur.backup"),))


def copy(service, url, tmp_path, postgres):
    service.kill()
    service.kill_workers()
    database = Path(url.removeprefix("sqlite:///"))
    assert database.with_name(f"{database.name}-wal").stat().st_size > 0
    for suffix in ("", "-wal"):
        shutil.copy(f"{database}{suffix}", tmp_path / f"secateur.backup{suffix}")


def keep(tmp_path, postgres):
    return f"sqlite:///{tmp_path}/secateur.backup"


@pytest.mark.parametrize(
    ("database_url", "back_up", "restore"),
    [("postgresql", dump, restore_dump), ("sqlite", vacuum, keep), ("sqlite", copy, keep)],
    indirect=["database_url"],
)
def test_a_job_that_was_half_finished_in_the_backup_is_finished_after_the_restore(
    database_url, back_up, restore, tmp_path, request
):
    server = request.getfixturevalue("postgres") if back_up is dump else None
    settings = {**WITH_WORKERS, **this_release(), "SECATEUR_DESTINATIONS": (tmp_path / "results").as_uri()}
    lost = Service(tmp_path, toy="patient", **settings, SECATEUR_DATABASE_URL=database_url)
    store = lost.store
    older, half_finished = (store.create(new_job(destination=(tmp_path / "results").as_uri())).id for _ in range(2))
    until(lambda: store.blocks(older))
    (lost.data_dir / "work" / older / "go").touch()
    until(lambda: store.get(older).state is JobState.SUCCEEDED and store.blocks(half_finished))
    back_up(lost, database_url, tmp_path, server)
    expected, told = store.get(older), store.events(older, after=0, limit=100)
    lost.close()

    restored = Service(tmp_path, toy="finish", **settings, SECATEUR_DATABASE_URL=restore(tmp_path, server))
    try:
        store = restored.store
        assert (store.get(older), store.events(older, after=0, limit=100)) == (expected, told)
        let_pass(store, LEASE_SECONDS)
        until(lambda: store.get(half_finished).state is JobState.SUCCEEDED)
        events = store.events(half_finished, after=0, limit=100)
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert [event.body["index"] for event in events if event.kind is EventKind.BLOCK] == [0, 1, 2]
        assert store.get(half_finished).attempt == 2
        with secateur.Client(restored.endpoint) as client:
            assert client.job(older).get().result.sparsity == 0.5
            assert [job.name.removeprefix("pruneJobs/") for job in client.list_jobs()] == [half_finished, older]
            assert store.create(new_job()).last_sequence == 1
    finally:
        restored.close()
