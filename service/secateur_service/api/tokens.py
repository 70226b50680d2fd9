"""Callers' tokens: what is stored of them, and how a call presents one.

A token is 256 random bits. Only a single SHA-256 of it is stored: slow hashes protect passwords that can be guessed,
and nobody guesses 256 random bits, so a slow hash would only cost every call time. The file is reread when it changes;
`secateur-service tokens` writes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from secateur._findings import worded
from secateur_service.api.reloading import Reloading, UnusableFileError
from secateur_service.durable import sync
from secateur_service.errors import UnauthenticatedError
from secateur_service.settings import Settings

METADATA_KEY = "authorization"
_BEARER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9._~+/-]+=*)")
# Known to secateur._redaction, which redacts whatever begins with it; secret scanners can find it too.
_PREFIX = "sct_"
_RANDOM_BYTES = 32

CALLER: ContextVar[str | None] = ContextVar("caller", default=None)
"""Name of the current call's token; None if the server asks for none."""

TokenName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class TokenEntry(BaseModel):
    """What is stored of a token."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: TokenName
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    created: AwareDatetime
    expires: AwareDatetime | None = None

    def has_expired(self, now: datetime) -> bool:
        """Whether the token has expired."""
        return self.expires is not None and self.expires <= now


class TokenList(BaseModel):
    """The content of a tokens file."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    version: Literal[1] = 1
    tokens: tuple[TokenEntry, ...] = ()

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = [entry.name for entry in self.tokens]
        if len(set(names)) < len(names):
            raise ValueError("two tokens have the same name")
        return self


class Tokens:
    """Who may call; follows the tokens file if `look` is called regularly."""

    def __init__(self, path: Path, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Read the file.

        Raises:
            UnusableFileError: it cannot be read.
        """
        self._source = Reloading([path], lambda: _known(read_tokens(path)))
        self._clock = clock
        self.look = self._source.look

    @classmethod
    def from_settings(cls, settings: Settings) -> Self | None:
        """The tokens that the settings name; None if callers need none.

        Raises:
            UnusableFileError: the file cannot be read.
        """
        return None if settings.tokens_file is None else cls(settings.tokens_file)

    def caller_of(self, metadata: Iterable[tuple[str, str | bytes]]) -> str:
        """The name of the token in a call's metadata.

        Raises:
            UnauthenticatedError: there is none, it is not known, or it has expired.
        """
        shown = [value for key, value in metadata if key == METADATA_KEY]
        if not shown:
            raise UnauthenticatedError(
                "the service requires a token, as metadata `authorization: Bearer TOKEN`; set SECATEUR_TOKEN for the "
                "SDK and its command line",
                reason="TOKEN_MISSING",
            )
        value = shown[0]
        match = _BEARER.fullmatch(value.strip()) if len(shown) == 1 and isinstance(value, str) else None
        if match is None:
            raise UnauthenticatedError("what was sent is not one `Bearer TOKEN`; was it cut or quoted?")
        entry = self._entry_of(hashlib.sha256(match[1].encode()).digest())
        if entry is None:
            raise UnauthenticatedError("the service does not know the token; it may have been revoked")
        if entry.has_expired(self._clock()):
            raise UnauthenticatedError(
                f"the token {entry.name} expired at {entry.expires:%Y-%m-%dT%H:%MZ}; ask for a new one",
                reason="TOKEN_EXPIRED",
                metadata={"caller": entry.name},
            )
        return entry.name

    def _entry_of(self, digest: bytes) -> TokenEntry | None:
        """The entry for a digest; the time taken reveals neither whether there is one, nor which it is."""
        found: TokenEntry | None = None
        for known, entry in self._source.value:
            if hmac.compare_digest(known, digest):
                found = entry
        return found


def _known(tokens: TokenList) -> tuple[tuple[bytes, TokenEntry], ...]:
    return tuple((bytes.fromhex(entry.sha256), entry) for entry in tokens.tokens)


def new_token() -> tuple[str, str]:
    """A new token, and its digest to be stored."""
    token = _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    return token, hashlib.sha256(token.encode()).hexdigest()


def read_tokens(path: Path) -> TokenList:
    """The content of a tokens file.

    Raises:
        UnusableFileError: it cannot be read, or is not a tokens file.
    """
    try:
        return TokenList.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UnusableFileError(
            f"tokens_file {path} cannot be read: {error.strerror}; make it with: secateur-service tokens create NAME"
        ) from error
    except ValidationError as error:
        finding = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in finding["loc"])
        fault = f"{place + ': ' if place else ''}{worded(finding, shown=False)}"
        raise UnusableFileError(
            f"tokens_file {path} is damaged ({fault}); restore it, or begin anew: remove it and run "
            "secateur-service tokens create NAME"
        ) from error


@contextlib.contextmanager
def edited_tokens(path: Path) -> Iterator[list[TokenEntry]]:
    """Edit a tokens file: yields its entries, and writes them back atomically at the end of the block.

    A missing file counts as empty, and a missing folder is made. Concurrent edits wait.

    Raises:
        UnusableFileError: it cannot be read, or is not a tokens file.
        OSError: it cannot be written.
    """
    path = path.resolve()  # a link must stay a link
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path.parent, os.O_RDONLY)  # every edit replaces the file itself
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        entries = list(read_tokens(path).tokens) if path.exists() else []
        yield entries
        _write(path, TokenList(tokens=tuple(entries)))
    finally:
        os.close(lock)


def _write(path: Path, tokens: TokenList) -> None:
    """Replace a tokens file; it keeps its owner, and nobody else can read it."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        if path.exists():
            owner = path.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)  # root may edit it, the service must read it
        file.write(tokens.model_dump_json(indent=2).encode() + b"\n")
        file.flush()
        os.fsync(descriptor)
    partial.replace(path)
    sync(path.parent)
