"""When a job must have started and ended, and when its last event was.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_COLUMNS = ("queue_deadline", "run_deadline", "last_event_time")


def upgrade() -> None:
    with op.batch_alter_table("jobs", recreate="never") as table:
        for name in _COLUMNS:
            table.add_column(sa.Column(name, sa.BigInteger()))


def downgrade() -> None:
    with op.batch_alter_table("jobs", recreate="never") as table:
        for name in reversed(_COLUMNS):
            table.drop_column(name)
