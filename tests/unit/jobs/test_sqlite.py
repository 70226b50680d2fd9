"""What makes SQLite safe as the store of several processes."""

import sqlite3

import pytest

from secateur_service.errors import TransientError
from secateur_service.jobs.store import open_job_store
from support.jobs import new_job


@pytest.fixture
def database_url(tmp_path):
    return f"sqlite:///{tmp_path}/jobs.sqlite3"


def test_acknowledged_writes_are_durable_and_the_file_is_in_wal_mode(store, tmp_path):
    with store._database.writer.begin() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    with sqlite3.connect(tmp_path / "jobs.sqlite3") as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_writing_transaction_excludes_other_writers_from_its_first_statement_on(store, tmp_path):
    other = sqlite3.connect(tmp_path / "jobs.sqlite3", timeout=0)
    with store._database.writer.begin(), pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")
    other.close()


def test_a_store_that_does_not_answer_is_a_transient_error(tmp_path):
    unmigrated = open_job_store(f"sqlite:///{tmp_path}/empty.sqlite3")
    with pytest.raises(TransientError, match="SQLITE_ERROR") as caught:
        unmigrated.get("any")
    assert caught.value.reason == "STORE_UNAVAILABLE"
    unmigrated.close()


def test_a_database_that_cannot_be_opened_is_a_transient_error_for_every_kind_of_call(tmp_path):
    (tmp_path / "folder.sqlite3").mkdir()
    store = open_job_store(f"sqlite:///{tmp_path}/folder.sqlite3")
    for call in (store.migrate, store.position, lambda: store.await_change(None, 0), lambda: store.create(new_job())):
        with pytest.raises(TransientError, match="SQLITE_CANTOPEN"):
            call()
    store.close()


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("mysql://host/db", "names mysql, which is not supported"),
        ("sqlite://", "cannot live in memory"),
        ("sqlite:///:memory:", "cannot live in memory"),
    ],
)
def test_databases_that_cannot_be_the_store_are_refused_with_the_remedy(url, remedy):
    with pytest.raises(ValueError, match=remedy) as caught:
        open_job_store(url)
    assert "sqlite:////absolute/path" in str(caught.value)
