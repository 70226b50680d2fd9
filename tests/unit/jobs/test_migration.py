import shutil
from contextlib import closing

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect

from secateur_service.jobs.migration import SCRIPTS, upgrade
from secateur_service.jobs.schema import metadata
from secateur_service.jobs.store import open_job_store
from support.jobs import new_job


def plain(index):
    """An index as values that can be compared: the condition of a partial one is an object of SQLAlchemy."""
    return {**index, "dialect_options": {name: str(value) for name, value in index["dialect_options"].items()}}


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
            "indexes": sorted(map(plain, inspected.get_indexes(name)), key=str),
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
    others = {"job_labels", "events", "blocks", "agents", "leases", "schema_compatibility"}
    assert {"jobs", *others} == created.keys()
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
    refused = pytest.raises(ValueError, match="does not name a job store")
    with closing(open_job_store(f"sqlite:///{file}")) as store, refused:
        store.migrate()
    assert file.read_text() == "Dear reader, " * 1000


def be_newer(store, *statements):
    with store._database.writer.begin() as connection:
        for statement in ("UPDATE alembic_version SET version_num = '9999'", *statements):
            connection.exec_driver_sql(statement)


def test_the_schema_of_a_newer_release_is_used_as_it_is_where_it_says_so(store, database_url):
    job = store.create(new_job())
    be_newer(store, "CREATE TABLE news (text VARCHAR(8))", "ALTER TABLE jobs ADD COLUMN mood VARCHAR(8)")
    found = definitions(database_url)
    assert store.migrate() == "9999"
    assert store.check_schema() == "9999"
    assert definitions(database_url) == found
    assert store.claim(owner="test", lease_seconds=30).id == job.id


def test_a_schema_of_a_newer_release_that_does_not_say_so_is_refused_with_what_it_needs(store):
    be_newer(store, "UPDATE schema_compatibility SET oldest = '9998'")
    with pytest.raises(ValueError, match="at revision 9999 of a newer release, which takes code from revision 9998 on"):
        store.migrate()
    with pytest.raises(ValueError, match="at revision 9999 of a newer release"):
        store.check_schema()
    with pytest.raises(ValueError, match="cannot be migrated"):
        store.migrate(back_to="0004")


@pytest.mark.parametrize(("back_to", "found"), [("base", "is empty"), ("0009", "is at revision 0009 of an older")])
def test_an_agent_is_told_to_have_an_older_schema_migrated_and_does_not_do_so_itself(
    store, database_url, back_to, found
):
    assert store.check_schema() is None
    store.migrate(back_to=back_to)
    there = definitions(database_url)
    with pytest.raises(ValueError, match=f"the job store {found}.*start a replica of this release"):
        store.check_schema()
    assert definitions(database_url) == there


def test_a_schema_that_is_not_known_and_has_no_record_is_refused(store):
    be_newer(store, "DROP TABLE schema_compatibility")
    with pytest.raises(ValueError, match="newer release"):
        store.migrate()


def test_the_oldest_code_that_may_use_a_schema_is_what_its_migrations_say(database_url, tmp_path):
    shutil.copytree(SCRIPTS, tmp_path / "scripts")
    head = ScriptDirectory(SCRIPTS).get_current_head()
    for revision, before, rule in (("9001", head, "oldest_supported = '0005'\n"), ("9002", "9001", "")):
        text = f"revision = '{revision}'\ndown_revision = '{before}'\n{rule}\n\ndef upgrade():\n    pass\n"
        (tmp_path / "scripts" / "versions" / f"{revision}.py").write_text(text)
    engine = create_engine(database_url.replace("postgresql://", "postgresql+psycopg://"))
    oldest = {}
    for revision in (head, "9001", "9002"):
        with engine.begin() as connection:
            upgrade(connection, revision, scripts=tmp_path / "scripts")
            oldest[revision] = connection.exec_driver_sql("SELECT oldest FROM schema_compatibility").scalar_one()
    engine.dispose()
    assert oldest == {head: "0001", "9001": "0005", "9002": "0005"}
