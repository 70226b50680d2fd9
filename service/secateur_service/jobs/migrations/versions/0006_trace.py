"""The trace that a job belongs to.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs", recreate="never") as table:
        table.add_column(sa.Column("trace", sa.JSON(none_as_null=True)))


def downgrade() -> None:
    with op.batch_alter_table("jobs", recreate="never") as table:
        table.drop_column("trace")
