"""Alembic's entry point: migrates with the connection, and in the transaction, that `migration.upgrade` passes in.

It uses batch mode, because SQLite can alter most things only by rebuilding the table.

Rules for a migration
---------------------

The previous release runs on the schema that a migration creates: alongside this one during a rolling upgrade, and after
a rollback. So there are two kinds of migration.

- *Expand*: new tables, views and indexes, and new columns that are nullable or have a server default. Nothing else: no
  new NOT NULL, UNIQUE, CHECK or foreign key on what existed. This is the default for a migration.
- *Contract*: anything else, such as dropping, renaming, tightening, or adding a job state (older code cannot read it).
  Such a module names the oldest revision whose code may use the resulting schema: `oldest_supported = "0007"`. A
  release with an older head then refuses to start.

A change takes at least two releases: the first expands and writes old and new, a later one contracts. The first needs
the old as long as it runs, so a contraction in the very next release names its own revision: that upgrade can be
neither rolling nor rolled back. If it has to be, a release in between stops using the old, with a migration of its own
(an empty one will do), and the contraction names that migration's revision.

Revisions are four-digit numbers, because they are compared as text. JSON columns follow the same rules without a
migration: fields are added, and `records.decoding.decode` ignores unknown ones.
tests/unit/jobs/test_expansion.py checks every migration that names no oldest revision.
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
