"""Which releases may use this schema, and in which format a job's specification is.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    compatibility = op.create_table("schema_compatibility", sa.Column("oldest", sa.String(32), nullable=False))
    op.bulk_insert(compatibility, [{"oldest": "0001"}])
    with op.batch_alter_table("jobs", recreate="never") as table:
        table.add_column(sa.Column("spec_format", sa.Integer(), nullable=False, server_default="1"))


def downgrade() -> None:
    with op.batch_alter_table("jobs", recreate="never") as table:
        table.drop_column("spec_format")
    op.drop_table("schema_compatibility")
