"""Which job a job is a retry of.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs", recreate="never") as table:
        table.add_column(sa.Column("retry_of", sa.String(128)))


def downgrade() -> None:
    with op.batch_alter_table("jobs", recreate="never") as table:
        table.drop_column("retry_of")
