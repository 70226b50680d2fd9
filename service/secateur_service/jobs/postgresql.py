"""PostgreSQL as the store for several servers and their workers: everything specific to it.

What it does not do by default:

- A sequence gives out numbers before a transaction commits, so a follower could read a later event and never see an
  earlier one that commits after it. So transactions that write events first take a lock (`order_events`), which they
  hold until they have committed. They take it last, and so wait for nobody while they hold it.
- A client suspended in the middle of a transaction would keep its rows locked as long as it lives. The server ends its
  session after a while, and nobody waits longer than that for a lock.
- A client whose server's machine is gone would wait for hours, so it uses keepalives.
- Queries are compiled, and shared between processes, where the planner expects much of them. Ours read few rows, which
  takes a millisecond, and starting that a hundred: both are off.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import psycopg
from sqlalchemy import BigInteger, ColumnElement, Engine, create_engine, func, literal_column, select
from sqlalchemy.engine import URL, Connection

from secateur_service.jobs.database import store_unavailable, to_json

LOCK_SECONDS = 10
_CHANNEL = "secateur_events"
# Keys of advisory locks: arbitrary numbers that nobody else in this database is likely to use.
_EVENTS_LOCK, _MIGRATION_LOCK = 7_355_608_001, 7_355_608_002

_CONNECT = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "application_name": "secateur",
    "options": (
        f"-c lock_timeout={LOCK_SECONDS}s -c idle_in_transaction_session_timeout={LOCK_SECONDS}s"
        " -c statement_timeout=60s -c timezone=UTC -c jit=off -c max_parallel_workers_per_gather=0"
        # A plan for any values would be taken after some calls; of a list it cannot know how few rows it needs.
        " -c plan_cache_mode=force_custom_plan"
    ),
}
_MAX_POSITION = "SELECT coalesce(max(position), 0) FROM events"


class PostgresqlDatabase:
    """Connections to one PostgreSQL database, its clock and its notifications."""

    def __init__(self, url: URL) -> None:
        """Prepare the database at a URL; nothing is connected yet."""
        url = url.set(drivername="postgresql+psycopg")
        self.writer: Engine = create_engine(
            url,
            connect_args=_CONNECT,
            json_serializer=to_json,
            pool_size=8,
            max_overflow=8,
            pool_pre_ping=True,  # a restarted server leaves dead connections in the pool
        )
        self.reader: Engine = self.writer.execution_options(isolation_level="AUTOCOMMIT")
        self._listener: psycopg.Connection | None = None
        self._listening = threading.Lock()

    @property
    def now(self) -> ColumnElement[int]:
        """The server's time in milliseconds since 1970; not the transaction's start time, which may be old."""
        return literal_column("CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)", BigInteger())

    def begins_with(self, column: ColumnElement[str], prefix: str) -> ColumnElement[bool]:
        """Whether a text begins with a prefix."""
        return column.like(prefix + "%")

    @contextlib.contextmanager
    def migrating(self) -> Iterator[Connection]:
        """A transaction in which the schema may be changed; others wait."""
        with self.writer.begin() as connection:
            connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            connection.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            yield connection

    def order_events(self, connection: Connection) -> None:
        """Wait for the transactions that are writing events, and wake all followers when this one commits."""
        # In one statement: once it has the lock, everybody waits for each that follows.
        connection.execute(select(func.pg_advisory_xact_lock(_EVENTS_LOCK), func.pg_notify(_CHANNEL, "")))

    def await_change(self, token: int | None, seconds: float) -> int:
        """Wait for a notification; returns the position of the newest event."""
        with self._listening:
            try:
                if self._listener is None:
                    self._listener = self._listen()
                position = _newest(self._listener)
                if position == token:
                    list(self._listener.notifies(timeout=seconds, stop_after=1))
                    position = _newest(self._listener)
            except psycopg.Error as error:
                self._close_listener()
                raise store_unavailable(error) from error
            return position

    def close(self) -> None:
        """Close all connections."""
        with self._listening:
            self._close_listener()
        self.writer.dispose()

    def _listen(self) -> psycopg.Connection:
        arguments, options = self.writer.dialect.create_connect_args(self.writer.url)
        connection = psycopg.connect(*arguments, **{**options, **_CONNECT}, autocommit=True)
        connection.execute(f"LISTEN {_CHANNEL}")
        return connection

    def _close_listener(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None


def _newest(connection: psycopg.Connection) -> int:
    row = connection.execute(_MAX_POSITION).fetchone()
    assert row is not None
    return int(row[0])
