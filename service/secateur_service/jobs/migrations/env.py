"""Alembic's entry point: migrates over the connection, and in the transaction, that `migration.upgrade` hands in.

Batch mode, because SQLite alters most things only by rebuilding the table.

Rules for a migration
---------------------

The release before this one runs on the schema that a migration makes: beside it during a rolling upgrade, and after a
rollback. So there are two kinds.

- *Expand*: new tables, views and indexes, and new columns that are nullable or have a server default. Nothing else: no
  new NOT NULL, UNIQUE, CHECK or foreign key on what was there. This is what a migration is if it says nothing.
- *Contract*: all else, such as to drop, to rename, to tighten, or to add a job state (older code cannot read it). Such
  a module names the oldest revision whose code may use what it leaves: `oldest_supported = "0007"`. A release with an
  older head then refuses to start.

A change takes two releases, so that a rollback by one is always possible: the first one expands, writes old and new,
and reads the new where it is there; the second one, which no longer needs the old, contracts. Code of the first one
still reads the old column, so the contraction names its own revision, unless a release in between did without.

Revisions are numbers of four digits: they are compared as text. Columns of JSON follow the same rules without a
migration: fields are added, and `plain.from_plain` ignores what it does not know. tests/unit/jobs/test_expansion.py
checks every migration that says nothing.
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
