"""The job store in SQL: jobs, their events and their block ledgers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from alembic.util.exc import CommandError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DatabaseError

from secateur_service.jobs.agents import SqlAgents
from secateur_service.jobs.attempt_log import SqlAttemptLog
from secateur_service.jobs.database import Database, answering
from secateur_service.jobs.leases import SqlLeases
from secateur_service.jobs.listing import fill_growth
from secateur_service.jobs.migration import check, downgrade, upgrade
from secateur_service.jobs.queries import SqlJobs
from secateur_service.jobs.queue import SqlQueue
from secateur_service.jobs.reasons import SqlReasons
from secateur_service.jobs.retention import SqlRetention
from secateur_service.jobs.sqlite import SqliteDatabase


def open_job_store(database_url: str) -> SqlJobStore:
    """Open the store at an SQLAlchemy URL. The schema must exist: call `migrate` once, in the server.

    Raises:
        ValueError: the database is not supported.
    """
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite":
        return SqlJobStore(SqliteDatabase(url))
    if url.get_backend_name() == "postgresql":
        try:
            from secateur_service.jobs.postgresql import PostgresqlDatabase
        except ImportError as error:
            raise ValueError(f"PostgreSQL needs a driver: pip install 'secateur[postgres]' ({error})") from error
        return SqlJobStore(PostgresqlDatabase(url))
    raise ValueError(
        f"database_url names {url.get_backend_name()}, which is not supported; use "
        "sqlite:////absolute/path/secateur.sqlite3 or postgresql://user:password@host/database"
    )


class SqlJobStore(SqlJobs, SqlQueue, SqlReasons, SqlAttemptLog):
    """`JobStore` in SQL; safe to use from several threads and processes.

    Any method raises `TransientError` with reason STORE_UNAVAILABLE while the database does not answer.

    Attributes:
        retention: which jobs are due for cleanup.
        agents: who runs jobs.
        leases: leases on names.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.retention = SqlRetention(database)
        self.agents = SqlAgents(database)
        self.leases = SqlLeases(database)

    def migrate(self, *, back_to: str | None = None) -> str | None:
        """Bring the schema up to date; harmless if it already is. Several processes may call it at once.

        Args:
            back_to: instead, undo the migrations after this revision; `base` removes everything.

        Returns:
            The revision of a newer release, whose schema this one may use and leaves unchanged; else None.

        Raises:
            ValueError: the database is not a job store, or is one of a newer release that this one may not use.
        """
        with _explained(), self._database.migrating() as connection:
            if back_to is None:
                newer = upgrade(connection)
                if newer is None:
                    fill_growth(connection)
                return newer
            downgrade(connection, back_to)
            return None

    def check_schema(self) -> str | None:
        """Look whether this release may use the schema as it is; changes nothing.

        Returns:
            The revision of a newer release, whose schema this one may use; None if the schema is this release's own.

        Raises:
            ValueError: the database is not a job store, or is one of an older release, or of a newer one that this one
                may not use.
        """
        with _explained(), self._database.reader.connect() as connection:
            return check(connection)

    def close(self) -> None:
        """Close all connections."""
        self._database.close()


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Say what is wrong with a database whose schema cannot be used."""
    try:
        with answering():
            yield
    except DatabaseError as error:
        raise ValueError(f"database_url does not name a job store: {error.orig}; name another database") from error
    except CommandError as error:
        raise ValueError(f"the job store cannot be migrated: {error}") from error
