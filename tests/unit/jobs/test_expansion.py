"""The release before a migration runs on the schema after it, unless the migration says that it does not."""

import re
import textwrap

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from secateur_service.jobs.migration import SCRIPTS
from support.expansion import contractions

STEPS = [
    (script.down_revision, script.revision)
    for script in ScriptDirectory(SCRIPTS).walk_revisions()
    if script.revision >= "0005" and not hasattr(script.module, "oldest_supported")
]

BASE = """
op.create_table(
    "jobs",
    sa.Column("id", sa.String(8), primary_key=True),
    sa.Column("size", sa.Integer(), nullable=False, server_default="1"),
    sa.Column("note", sa.String(8)),
)
op.create_table("parts", sa.Column("job_id", sa.String(8), primary_key=True))
"""
GOOD = """
op.create_table("tenants", sa.Column("name", sa.String(8), nullable=False, unique=True))
op.create_index("ix_jobs_note", "jobs", ["note"])
op.execute("CREATE VIEW small AS SELECT id FROM jobs WHERE size < 10")
with op.batch_alter_table("jobs", recreate="never") as table:
    table.add_column(sa.Column("trace", sa.JSON()))
    table.add_column(sa.Column("format", sa.Integer(), nullable=False, server_default="1"))
"""
BAD = {
    "jobs.note is gone": 'table.drop_column("note")',
    "jobs.remark is new and has to be given": 'table.add_column(sa.Column("remark", sa.String(8), nullable=False))',
    "jobs.size is SMALLINT": 'table.alter_column("size", type_=sa.SmallInteger())',
    "jobs.note is not nullable now": 'table.alter_column("note", nullable=False)',
    "jobs.size is nullable now": 'table.alter_column("size", nullable=True)',
    "jobs.size has lost its default": 'table.alter_column("size", server_default=None)',
    r"unique \['note'\] is new": 'table.create_unique_constraint("uq", ["note"])',
    "check .* is new": 'table.create_check_constraint("ck", "size > 100")',
    "takes no row of the older release": 'table.create_check_constraint("ck", "size > 100")',
    r"foreign \['note'\] parts \['job_id'\] is new": 'table.create_foreign_key("fk", "parts", ["note"], ["job_id"])',
}
OTHER_BAD = {
    "parts is gone": 'op.drop_table("parts")',
    r"unique \['size'\] is new": 'op.create_index("ix", "jobs", ["size"], unique=True)',
    "jobs.title is new|jobs.note is gone": 'op.alter_column("jobs", "note", new_column_name="title")',
}


@pytest.fixture
def engine(database_url):
    engine = create_engine(database_url.replace("postgresql://", "postgresql+psycopg://"))
    yield engine
    engine.dispose()


@pytest.fixture
def scripts(tmp_path):
    def write(*upgrades):
        folder = tmp_path / "scripts"
        (folder / "versions").mkdir(parents=True)
        (folder / "env.py").write_text((SCRIPTS / "env.py").read_text(encoding="utf-8"), encoding="utf-8")
        for number, body in enumerate(upgrades, start=1):
            text = "import sqlalchemy as sa\nfrom alembic import op\n\n"
            text += f"revision = '{number:04}'\ndown_revision = {f'{number - 1:04}' if number > 1 else None!r}\n\n\n"
            text += "def upgrade():\n" + textwrap.indent(body, "    ")
            (folder / "versions" / f"{number:04}.py").write_text(text, encoding="utf-8")
        return folder

    return write


@pytest.mark.parametrize(("before", "after"), STEPS)
def test_a_migration_that_says_nothing_leaves_the_older_release_what_it_needs(before, after, engine):
    assert contractions(engine, SCRIPTS, before, after) == []


def test_new_tables_views_indexes_and_columns_with_a_default_break_nothing(engine, scripts):
    assert contractions(engine, scripts(BASE, GOOD), "0001", "0002") == []


@pytest.mark.parametrize("broken", [*BAD, *OTHER_BAD])
def test_what_breaks_the_older_release_is_found(broken, engine, scripts):
    body = OTHER_BAD.get(broken) or f'with op.batch_alter_table("jobs") as table:\n    {BAD[broken]}'
    found = contractions(engine, scripts(BASE, body), "0001", "0002")
    assert any(re.search(broken, what) for what in found), found
