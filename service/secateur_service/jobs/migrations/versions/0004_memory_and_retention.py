"""The memory that a job has to use sparingly, and when its leftovers were removed.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs", recreate="never") as table:
        table.add_column(sa.Column("short_of", sa.JSON(none_as_null=True)))
        table.add_column(sa.Column("swept_time", sa.BigInteger()))


def downgrade() -> None:
    with op.batch_alter_table("jobs", recreate="never") as table:
        table.drop_column("swept_time")
        table.drop_column("short_of")
