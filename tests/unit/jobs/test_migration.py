import re
import sqlite3
from contextlib import closing

import pytest
from sqlalchemy import create_engine

from secateur_service.jobs.schema import metadata
from secateur_service.jobs.store import open_job_store
from support.jobs import new_job


def definitions(path):
    """Every table and index of a database as the set of its columns and constraints."""
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return {
        name: {re.sub(r"\s+", " ", part).strip(" ,()") for part in sql.replace('"', "").splitlines()}
        for name, sql in rows
        if name not in ("alembic_version", "sqlite_sequence")
    }


def test_the_migrated_schema_equals_the_metadata(tmp_path):
    store = open_job_store(f"sqlite:///{tmp_path}/migrated.sqlite3")
    store.migrate()
    store.close()
    engine = create_engine(f"sqlite:///{tmp_path}/created.sqlite3")
    metadata.create_all(engine)
    engine.dispose()
    migrated, created = definitions(tmp_path / "migrated.sqlite3"), definitions(tmp_path / "created.sqlite3")
    assert migrated == created
    assert {"jobs", "events", "blocks", "ix_jobs_state_number"} <= created.keys()


def test_migrating_again_is_harmless(store):
    job = store.create(new_job())
    store.migrate()
    assert store.get(job.id) == job


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path):
    file = tmp_path / "letter.txt"
    file.write_text("Dear reader, " * 1000)
    with closing(open_job_store(f"sqlite:///{file}")) as store, pytest.raises(ValueError, match="is no job store"):
        store.migrate()
    assert file.read_text() == "Dear reader, " * 1000


def test_the_store_of_a_newer_release_is_refused(store, tmp_path):
    with closing(sqlite3.connect(tmp_path / "jobs.sqlite3")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ValueError, match="newer release"):
        store.migrate()
