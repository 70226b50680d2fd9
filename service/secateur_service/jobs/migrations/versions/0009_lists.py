"""What lists of jobs filter by and are ordered by: labels one by one, what a job lost at worst, and their indexes.

A trigger writes the labels, so that those of jobs that an older release creates are there, too. The growth of jobs that
ended before, or in an older release, is filled in by `jobs.store` whenever a server of this release starts.

Revision ID: 0009
Revises: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_COUNTER = sa.BigInteger().with_variant(sa.Integer, "sqlite")

_FILL = """
INSERT INTO job_labels (number, key, value, create_time)
SELECT jobs.number, label.key, label.value, jobs.create_time FROM jobs, {each}(jobs.labels) AS label
"""
_OF_SQLITE = """
CREATE TRIGGER job_labels_of_new_job AFTER INSERT ON jobs BEGIN
    INSERT INTO job_labels (number, key, value, create_time)
    SELECT NEW.number, label.key, label.value, NEW.create_time FROM json_each(NEW.labels) AS label;
END
"""
_OF_POSTGRESQL = """
CREATE FUNCTION job_labels_of_new_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO job_labels (number, key, value, create_time)
    SELECT NEW.number, label.key, label.value, NEW.create_time FROM json_each_text(NEW.labels) AS label;
    RETURN NULL;
END
$$;
CREATE TRIGGER job_labels_of_new_job AFTER INSERT ON jobs
FOR EACH ROW EXECUTE FUNCTION job_labels_of_new_job()
"""


def upgrade() -> None:
    on_postgresql = op.get_context().dialect.name == "postgresql"
    with op.batch_alter_table("jobs", recreate="never") as table:
        table.add_column(sa.Column("worst_growth", sa.Float(53)))
        table.create_index("ix_jobs_retry_of", ["retry_of"])
        table.create_index("ix_jobs_create_time_number_state", ["create_time", "number", "state"])
        table.create_index("ix_jobs_end_time_number_state_create_time", ["end_time", "number", "state", "create_time"])
        table.create_index(
            "ix_jobs_worst_growth_number_state_create_time", ["worst_growth", "number", "state", "create_time"]
        )
        if on_postgresql:
            table.create_index("ix_jobs_id_prefix", ["id"], postgresql_ops={"id": "varchar_pattern_ops"})
    op.create_table(
        "job_labels",
        sa.Column("number", _COUNTER, nullable=False),
        sa.Column("key", sa.String(128), nullable=False),
        sa.Column("value", sa.String(128), nullable=False),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number", "key", name=op.f("pk_job_labels")),
        sa.ForeignKeyConstraint(["number"], ["jobs.number"], name=op.f("fk_job_labels_number"), ondelete="CASCADE"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("ix_job_labels_key_value_create_time_number"), "job_labels", ["key", "value", "create_time", "number"]
    )
    op.execute(_FILL.format(each="json_each_text" if on_postgresql else "json_each"))
    op.execute(_OF_POSTGRESQL if on_postgresql else _OF_SQLITE)


def downgrade() -> None:
    on_postgresql = op.get_context().dialect.name == "postgresql"
    op.execute("DROP TRIGGER job_labels_of_new_job" + (" ON jobs" if on_postgresql else ""))
    if on_postgresql:
        op.execute("DROP FUNCTION job_labels_of_new_job()")
    op.drop_table("job_labels")
    with op.batch_alter_table("jobs", recreate="never") as table:
        if on_postgresql:
            table.drop_index("ix_jobs_id_prefix")
        table.drop_index("ix_jobs_worst_growth_number_state_create_time")
        table.drop_index("ix_jobs_end_time_number_state_create_time")
        table.drop_index("ix_jobs_create_time_number_state")
        table.drop_index("ix_jobs_retry_of")
        table.drop_column("worst_growth")
