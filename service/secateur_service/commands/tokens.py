"""`secateur-service tokens`: makes, lists and revokes callers' tokens."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from secateur._foreign import detail_of
from secateur._terminal import clean, say, write
from secateur_service.api.reloading import UnusableFileError
from secateur_service.api.tokens import TokenEntry, edited_tokens, new_token, read_tokens

EXIT_REFUSED = 1
EXIT_USAGE = 2

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SPAN = re.compile(r"([1-9][0-9]{0,5})([mhdw])")


class _RefusedError(Exception):
    """The command cannot do what was asked."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def create(path: Path | None, name: str, expires: str | None) -> int:
    """Make a token, store its hash, and print it; returns the exit code.

    Args:
        path: The tokens file.
        name: Who uses the token.
        expires: How long it is valid, such as `30d`; None for ever.
    """
    now = datetime.now(UTC).replace(microsecond=0)
    token, digest = new_token()
    try:
        entry = _entry(name, digest, now, expires)
        with _refusals(), edited_tokens(_named(path)) as entries:
            _add(entries, entry)
    except _RefusedError as refusal:
        return _refuse(refusal)
    until = "for ever" if entry.expires is None else f"until {_shown(entry.expires)}"
    say(f"the token {name} is good {until}; it is shown this once, keep it like a password")
    write(token, stream=sys.stdout)
    return 0


def list_all(path: Path | None) -> int:
    """Print names and times of all tokens; returns the exit code."""
    try:
        with _refusals():
            entries = read_tokens(_named(path)).tokens
    except _RefusedError as refusal:
        return _refuse(refusal)
    now = datetime.now(UTC)
    width = max([len("NAME"), *(len(entry.name) for entry in entries)])
    lines = [f"{'NAME':<{width}}  {'CREATED':<17}  EXPIRES"]
    for entry in entries:
        expires = "never" if entry.expires is None else _shown(entry.expires)
        expired = "  (expired)" if entry.has_expired(now) else ""
        lines.append(f"{entry.name:<{width}}  {_shown(entry.created):<17}  {expires}{expired}")
    write("\n".join(lines), stream=sys.stdout)
    return 0


def revoke(path: Path | None, name: str) -> int:
    """Remove a token; returns the exit code."""
    try:
        path = _named(path)
        with _refusals():
            read_tokens(path)  # revoking must not create a missing file
            with edited_tokens(path) as entries:
                _remove(entries, name)
    except _RefusedError as refusal:
        return _refuse(refusal)
    write(f"the token {name} is revoked", stream=sys.stdout)
    return 0


def _add(entries: list[TokenEntry], entry: TokenEntry) -> None:
    if any(other.name == entry.name for other in entries):
        raise _RefusedError(
            f"there is a token {entry.name}; choose another name, or first: secateur-service tokens revoke "
            f"{entry.name}",
            EXIT_REFUSED,
        )
    entries.append(entry)


def _remove(entries: list[TokenEntry], name: str) -> None:
    left = [entry for entry in entries if entry.name != name]
    if len(left) == len(entries):
        raise _RefusedError(f"there is no token {name}; see: secateur-service tokens list", EXIT_REFUSED)
    entries[:] = left


def _entry(name: str, digest: str, now: datetime, expires: str | None) -> TokenEntry:
    end = None
    if expires is not None:
        match = _SPAN.fullmatch(expires)
        if match is None:
            raise _RefusedError(f"not a time: {expires!r}; use 30d, 12h, 90m or 2w", EXIT_USAGE)
        try:
            end = now + timedelta(**{_UNITS[match[2]]: int(match[1])})
        except OverflowError:
            raise _RefusedError(f"{expires} is too long; leave --expires out", EXIT_USAGE) from None
    try:
        return TokenEntry(name=name, sha256=digest, created=now, expires=end)
    except ValidationError:
        raise _RefusedError(
            f"not a name: {name!r}; use up to 64 letters, digits, `.`, `_` and `-`, a letter or digit first", EXIT_USAGE
        ) from None


def _named(path: Path | None) -> Path:
    if path is None:
        raise _RefusedError(
            "no tokens file is given; set tokens_file (SECATEUR_TOKENS_FILE), as for the server, or use --tokens-file",
            EXIT_USAGE,
        )
    return path


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn errors of the tokens file into refusals."""
    try:
        yield
    except UnusableFileError as error:
        raise _RefusedError(str(error), EXIT_REFUSED) from error
    except OSError as error:
        place = f" to {error.filename}" if error.filename else ""
        raise _RefusedError(f"the tokens cannot be written{place}: {detail_of(error)}", EXIT_REFUSED) from error


def _refuse(refusal: _RefusedError) -> int:
    say(clean(str(refusal)))
    return refusal.code


def _shown(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%dT%H:%MZ}"
