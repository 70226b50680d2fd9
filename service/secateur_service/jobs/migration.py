"""Migrates a database to the schema of this release, or back, with Alembic but without its command line.

Two releases share a database during an upgrade, and an older one returns after a rollback. So a schema records the
oldest revision whose code may use it (`schema.compatibility`); the rules for migrations are in `migrations/env.py`.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, select, update
from sqlalchemy.engine import Connection

from secateur_service.jobs.schema import compatibility

SCRIPTS = Path(__file__).parent / "migrations"


class NewerSchemaError(ValueError):
    """The database has the schema of a newer release, which this release may not use."""


class OlderSchemaError(ValueError):
    """The database has no schema, or that of an older release."""


def upgrade(connection: Connection, revision: str = "head", *, scripts: Path = SCRIPTS) -> str | None:
    """Run the missing migrations, in the connection's current transaction.

    Returns:
        The revision of a newer release, whose schema this one may use and leaves unchanged; None if the schema is this
        release's own.

    Raises:
        NewerSchemaError: this release may not use it.
    """
    config = _config(connection, scripts)
    known = ScriptDirectory.from_config(config)
    found = MigrationContext.configure(connection).get_current_revision()
    if found is None or _knows(known, found):
        command.upgrade(config, revision)
        _record(connection, known)
        return None
    return _newer(connection, known, found)


def check(connection: Connection) -> str | None:
    """Look whether this release may use the schema as it is; changes nothing.

    Returns:
        The revision of a newer release, which this one may use; None if the schema is this release's own.

    Raises:
        OlderSchemaError: the schema has to be migrated first, by a server of this release.
        NewerSchemaError: this release may not use it.
    """
    known = ScriptDirectory.from_config(_config(connection, SCRIPTS))
    found, head = MigrationContext.configure(connection).get_current_revision(), known.get_current_head()
    if found == head:
        return None
    if found is None or _knows(known, found):
        has = f"is at revision {found} of an older release" if found else "is empty"
        raise OlderSchemaError(
            f"the job store {has}, and this release needs revision {head}; start a replica of this release on it, or "
            "run `secateur-service migrate`; or name the database of the replicas (SECATEUR_DATABASE_URL)"
        )
    return _newer(connection, known, found)


def _knows(known: ScriptDirectory, revision: str) -> bool:
    return revision in {script.revision for script in known.walk_revisions()}


def _newer(connection: Connection, known: ScriptDirectory, found: str) -> str:
    """The revision that was found, if this release may use it."""
    head, oldest = known.get_current_head(), _oldest(connection)
    if head is None or oldest is None or head < oldest:
        raise NewerSchemaError(
            f"the job store is at revision {found} of a newer release, which takes code from revision "
            f"{oldest or found} on; this release has {head}. Install the release that was there before, or restore a "
            "backup from before its migration"
        )
    return found


def downgrade(connection: Connection, revision: str) -> None:
    """Undo the migrations after a revision (`base` for all), in the connection's current transaction.

    Raises:
        CommandError: there is no such revision below the database's.
    """
    config = _config(connection, SCRIPTS)
    command.downgrade(config, revision)
    _record(connection, ScriptDirectory.from_config(config))


def _config(connection: Connection, scripts: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _oldest(connection: Connection) -> str | None:
    """The oldest revision whose code may use the schema; None before revision 0005, which records it."""
    if not inspect(connection).has_table(compatibility.name):
        return None
    return connection.scalar(select(compatibility.c.oldest))


def _record(connection: Connection, known: ScriptDirectory) -> None:
    """Record the oldest revision that may use the schema, according to the migrations that have run."""
    recorded = _oldest(connection)
    if recorded is None:
        return
    reached = MigrationContext.configure(connection).get_current_revision()
    run = known.iterate_revisions(reached, "base")
    oldest = max(getattr(script.module, "oldest_supported", "0001") for script in run)
    if oldest != recorded:
        connection.execute(update(compatibility).values(oldest=oldest))
