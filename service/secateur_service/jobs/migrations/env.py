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

A change takes two releases at least: the first one expands and writes old and new, a later one contracts. The first
one needs the old until its end, so a contraction in the very next release names its own revision: that upgrade can
neither roll nor be rolled back. Where it has to, a release between them does without the old, with a migration of its
own (an empty one will do), and the contraction names that one's revision.

Revisions are numbers of four digits: they are compared as text. Columns of JSON follow the same rules without a
migration: fields are added, and `records.decoding.decode` ignores what it does not know.
tests/unit/jobs/test_expansion.py checks every migration that says nothing.
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
