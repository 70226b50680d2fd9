"""What jobs need and why they wait; who runs jobs; leases on names.

Jobs that an older release creates have needs of 0 and fit anywhere, and its replicas claim without looking at needs.

Revision ID: 0010
Revises: 0009
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_NEEDS = ("need_device_bytes", "need_host_beside_device_bytes", "need_disk_bytes", "need_host_bytes")
_QUEUED = sa.text("state = 'QUEUED'")
_INDEXES = {
    "ix_jobs_queue": ["create_time", "number", "not_before", "spec_format", *_NEEDS],
    "ix_jobs_queue_needs": [*_NEEDS, "waiting", "not_before"],
    "ix_jobs_queue_host": ["need_host_bytes", "need_disk_bytes", "not_before"],
}


def upgrade() -> None:
    with op.batch_alter_table("jobs", recreate="never") as table:
        for name in ("need_host_bytes", "need_disk_bytes", "need_device_bytes", "need_host_beside_device_bytes"):
            table.add_column(sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))
        table.add_column(sa.Column("waiting", sa.String(512)))
        for name, columns in _INDEXES.items():
            table.create_index(name, ["state", *columns], sqlite_where=_QUEUED, postgresql_where=_QUEUED)
    op.create_table(
        "agents",
        sa.Column("id", sa.String(256), nullable=False),
        sa.Column("node", sa.String(256), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("busy", sa.Integer(), nullable=False),
        sa.Column("devices", sa.Integer(), nullable=False),
        sa.Column("device_bytes", sa.BigInteger(), nullable=False),
        sa.Column("host_bytes", sa.BigInteger(), nullable=False),
        sa.Column("disk_bytes", sa.BigInteger(), nullable=False),
        sa.Column("heartbeat", sa.BigInteger(), nullable=False),
        sa.Column("draining", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agents")),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("owner", sa.String(256), nullable=False),
        sa.Column("lease_end", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )


def downgrade() -> None:
    op.drop_table("leases")
    op.drop_table("agents")
    with op.batch_alter_table("jobs", recreate="never") as table:
        for name in reversed(_INDEXES):
            table.drop_index(name)
        for name in ("waiting", *_NEEDS):
            table.drop_column(name)
