"""Which dense model a job with a report had, so that other jobs of it are found without reading every row.

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs", recreate="never") as table:
        table.add_column(sa.Column("model_digest", sa.String(64)))
        table.create_index("ix_jobs_model_digest_number", ["model_digest", "number"])


def downgrade() -> None:
    with op.batch_alter_table("jobs", recreate="never") as table:
        table.drop_index("ix_jobs_model_digest_number")
        table.drop_column("model_digest")
