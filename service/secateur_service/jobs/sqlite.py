"""SQLite as the store for several processes: everything specific to it.

What makes SQLite safe here but is not its default:

- A write transaction begins with BEGIN IMMEDIATE. The driver's deferred BEGIN lets two writers read the same last
  sequence number, and one of them then loses its event or fails with "database is locked".
- Write-ahead log, so that readers and the writer do not wait for each other; synchronous=FULL, so that acknowledged
  writes survive a power cut.
- A busy timeout on every connection, so that writers queue.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Engine, and_, create_engine, event, literal_column
from sqlalchemy.engine import URL, Connection

from secateur_service.jobs.database import store_unavailable, to_json

BUSY_TIMEOUT_SECONDS = 30.0

_WRITES = "secateur_writes"
_RETRY_SECONDS = 0.02
_LOOK_SECONDS = 0.2
_AFTER_ALL = "\x7f"  # after every character of an id


class SqliteDatabase:
    """Connections to one SQLite file, its clock and its change counter."""

    def __init__(self, url: URL) -> None:
        """Prepare the database at a URL; the first connection creates the file.

        Raises:
            ValueError: the URL names no file.
        """
        if url.database in (None, "", ":memory:"):
            raise ValueError(
                "the job store is shared by several processes and cannot live in memory; "
                "give database_url a file: sqlite:////absolute/path/secateur.sqlite3"
            )
        assert url.database is not None
        self._path = Path(url.database)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self.reader: Engine = create_engine(
            url,
            connect_args={"timeout": BUSY_TIMEOUT_SECONDS, "check_same_thread": False},
            json_serializer=to_json,
            pool_size=8,
            max_overflow=8,
        )
        self.writer: Engine = self.reader.execution_options(**{_WRITES: True})
        event.listen(self.reader, "connect", _configure)
        event.listen(self.reader, "begin", _begin)
        self._watch_lock = threading.Lock()
        self._closed = threading.Event()
        self._watch: sqlite3.Connection | None = None

    @property
    def now(self) -> ColumnElement[int]:
        """The database's time in milliseconds since 1970, exact: SQLite's clock counts whole milliseconds."""
        # unixepoch('subsec') needs SQLite 3.42, which stable distributions do not have yet.
        return literal_column("CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)", BigInteger())

    def begins_with(self, column: ColumnElement[str], prefix: str) -> ColumnElement[bool]:
        """Whether a text begins with a prefix: texts are compared byte by byte, and LIKE would use no index."""
        return and_(column >= prefix, column < prefix + _AFTER_ALL)

    @contextlib.contextmanager
    def migrating(self) -> Iterator[Connection]:
        """A transaction in which the schema may be changed.

        Foreign keys are off, because rebuilding a table drops it, which would empty its children.
        """
        engine = create_engine(self.reader.url, connect_args={"timeout": BUSY_TIMEOUT_SECONDS})
        event.listen(engine, "connect", _configure)
        event.listen(engine, "connect", lambda connection, _record: connection.execute("PRAGMA foreign_keys=OFF"))
        event.listen(engine, "begin", _begin)
        try:
            with engine.execution_options(**{_WRITES: True}).begin() as connection:
                yield connection
        finally:
            engine.dispose()

    def order_events(self, connection: Connection) -> None:
        """Do nothing: there is one writer at a time."""

    def await_change(self, token: int | None, seconds: float) -> int:
        """Poll SQLite's counter of other connections' commits a few times a second."""
        deadline = time.monotonic() + seconds
        while True:
            found = self._data_version()
            left = deadline - time.monotonic()
            if found != token or left <= 0 or self._closed.wait(min(_LOOK_SECONDS, left)):
                return found

    def _data_version(self) -> int:
        """The counter of commits; the connection that reads it must never write."""
        with self._watch_lock:
            try:
                if self._watch is None:
                    self._watch = sqlite3.connect(
                        self._path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
                    )
                (version,) = self._watch.execute("PRAGMA data_version").fetchone()
            except sqlite3.OperationalError as error:
                raise store_unavailable(error) from error
            return int(version)

    def close(self) -> None:
        """Close all connections."""
        self._closed.set()
        with self._watch_lock:
            if self._watch is not None:
                self._watch.close()
                self._watch = None
        self.reader.dispose()


def _configure(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # the driver must not begin transactions: _begin does
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA synchronous=FULL")
    _use_write_ahead_log(connection)


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Switch the file to WAL, once in its lifetime; the busy timeout does not cover this switch, so wait here."""
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_SECONDS)


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
