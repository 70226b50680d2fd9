"""Alembic's entry point: migrates over the connection, and in the transaction, that `migration.upgrade` hands in.

Batch mode, because SQLite alters most things only by rebuilding the table.
"""

from __future__ import annotations

from alembic import context

from secateur_service.jobs.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
context.run_migrations()
