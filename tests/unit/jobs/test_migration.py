import re
import sqlite3

from sqlalchemy import create_engine
from support.jobs import new_job

from secateur_service.jobs.schema import metadata
from secateur_service.jobs.store import open_job_store


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
