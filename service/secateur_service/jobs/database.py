"""What the job store needs from a database beyond portable SQL; each database's module implements it."""

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
    """A database shared by several processes.

    Attributes:
        reader: connections for individual statements.
        writer: connections for transactions that change something.
    """

    reader: Engine
    writer: Engine

    @property
    def now(self) -> ColumnElement[int]:
        """The database's time in whole milliseconds since 1970."""

    def begins_with(self, column: ColumnElement[str], prefix: str) -> ColumnElement[bool]:
        """Whether a text begins with a prefix of lower-case letters, digits and dashes, by an index if there is one."""

    def migrating(self) -> contextlib.AbstractContextManager[Connection]:
        """A transaction in which the schema may be changed, one process at a time."""

    def order_events(self, connection: Connection) -> None:
        """Make transactions that call this commit in the order of their calls, which is the order of their events."""

    def await_change(self, token: int | None, seconds: float) -> int:
        """Wait at most `seconds` for a write since `token` was returned; returns the current token.

        One caller at a time.

        Raises:
            TransientError: the database does not answer.
        """

    def close(self) -> None:
        """Close all connections and end any wait."""


def store_unavailable(cause: BaseException | None) -> TransientError:
    """The error for a database that does not answer now but may later."""
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
    """Raise TransientError if the database does not answer; let its refusals pass."""
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeoutError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise store_unavailable(cause) from error


def to_json(value: Any) -> str:
    """Compact JSON without lone surrogates: file names may hold some, and no message can carry them."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return text.encode(errors="replace").decode()
