"""What the job store needs of a database beyond the SQL that all of them understand; one module each implements it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Engine
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from secateur._foreign import detail_of
from secateur_service.errors import TransientError


class Database(Protocol):
    """A database of several processes.

    Attributes:
        reader: connections for one statement after the other.
        writer: connections for transactions that change something.
    """

    reader: Engine
    writer: Engine

    @property
    def now(self) -> ColumnElement[int]:
        """The database's time in whole milliseconds since 1970."""

    def migrating(self) -> contextlib.AbstractContextManager[Connection]:
        """A transaction in which the schema may be changed, one process at a time."""

    def order_events(self, connection: Connection) -> None:
        """Let transactions that call this commit in the order of their calls, which is that of their events."""

    def await_change(self, token: int | None, seconds: float) -> int:
        """Wait until somebody has written since `token` was returned, at most so long; the token of what is there now.

        One caller at a time.

        Raises:
            TransientError: the database does not answer.
        """

    def close(self) -> None:
        """Close all connections and end the waiting."""


def store_unavailable(cause: BaseException | None) -> TransientError:
    """The database does not answer; it may later."""
    said = f": {detail_of(cause)}" if cause is not None else ""
    return TransientError(f"the job store does not answer{said}", reason="STORE_UNAVAILABLE")


@contextlib.contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """A transaction on a database that may not answer.

    Raises:
        TransientError: with reason STORE_UNAVAILABLE, when it does not.
    """
    with answering(), engine.begin() as connection:
        yield connection


@contextlib.contextmanager
def answering() -> Iterator[None]:
    """Tell a database that does not answer from one that refuses."""
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeoutError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise store_unavailable(cause) from error


def to_json(value: Any) -> str:
    """Compact, and of characters only: file names may hold lone surrogates, which no message can carry."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return text.encode(errors="replace").decode()
