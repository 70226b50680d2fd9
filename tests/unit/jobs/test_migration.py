from contextlib import closing

import pytest
from sqlalchemy import create_engine, inspect

from secateur_service.jobs.schema import metadata
from secateur_service.jobs.store import open_job_store
from support.jobs import new_job


def definitions(url):
    """Every table of a database: columns, constraints and indexes."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    inspected = inspect(engine)
    tables = {
        name: {
            "columns": [
                (column["name"], str(column["type"]), column["nullable"], column["default"] is None)
                for column in inspected.get_columns(name)
            ],
            "key": inspected.get_pk_constraint(name),
            "unique": sorted(inspected.get_unique_constraints(name), key=str),
            "checks": inspected.get_check_constraints(name),
            "foreign": inspected.get_foreign_keys(name),
            "indexes": sorted(inspected.get_indexes(name), key=str),
        }
        for name in inspected.get_table_names()
        if name != "alembic_version"
    }
    engine.dispose()
    return tables


@pytest.fixture
def other_url(database_url, request, tmp_path):
    if database_url.startswith("sqlite"):
        return f"sqlite:///{tmp_path}/created.sqlite3"
    return request.getfixturevalue("postgres").create_database()


def test_the_migrated_schema_equals_the_metadata(store, database_url, other_url):
    engine = create_engine(other_url.replace("postgresql://", "postgresql+psycopg://"))
    metadata.create_all(engine)
    engine.dispose()
    migrated, created = definitions(database_url), definitions(other_url)
    assert migrated == created
    assert {"jobs", "events", "blocks"} == created.keys()
    assert created["jobs"]["checks"]
    assert created["jobs"]["indexes"]


def test_migrations_go_back_to_nothing_and_forward_again(store, database_url):
    migrated = definitions(database_url)
    store.migrate(back_to="base")
    assert definitions(database_url) == {}
    store.migrate()
    assert definitions(database_url) == migrated
    store.create(new_job())


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


def test_the_store_of_a_newer_release_is_refused(store):
    with store._database.writer.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ValueError, match="newer release"):
        store.migrate()
