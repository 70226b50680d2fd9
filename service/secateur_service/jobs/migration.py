"""Brings a database to the schema of this release, or back, with Alembic and without its command line."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy.engine import Connection

SCRIPTS = Path(__file__).parent / "migrations"


def upgrade(connection: Connection) -> None:
    """Run the migrations that are missing, in the transaction that the connection is in.

    Raises:
        CommandError: the database is at a revision that is not known.
    """
    command.upgrade(_config(connection), "head")


def downgrade(connection: Connection, revision: str) -> None:
    """Undo the migrations after a revision, `base` for all of them, in the transaction that the connection is in.

    Raises:
        CommandError: there is no such revision below the one that the database is at.
    """
    command.downgrade(_config(connection), revision)


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
