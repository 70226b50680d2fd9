"""Redaction, so that no secret leaves a process: the same for responses, events, logs, messages, reports, tracebacks.

Secrets are found in three ways: by the name of their key; by their form (tokens with a known prefix, `Authorization`
headers, passwords in URLs, signatures of presigned URLs); and, whatever their form, because the process registered them
when it read its settings (`protect`). Registered secrets are found verbatim and as libraries write them:
percent-encoded, escaped by `repr` or JSON or for HTML, in base64 as in basic authentication, and broken over lines.

The registered secrets are global to the process, as log handlers are: a list passed from function to function would be
missing where it is needed, in the handler of an unexpected error.
"""

from __future__ import annotations

import base64
import contextlib
import html
import json
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus, unquote

REDACTED = "[redacted]"

_SECRET_KEY = re.compile(
    r"(^|[_\-.])(password|passwd|secret|token|api_?key|access_?key|secret_?key|private_?key|credentials?|authorization"
    r"|cookie)([_\-.]|$)",
    re.IGNORECASE,
)
# `page_token`, `tokens_per_language` and the like are not secrets.
_NOT_SECRET_KEY = re.compile(r"(page_token|resume_token|change_token|tokens?_(per|total|count)\w*)$", re.IGNORECASE)

_FORMS = re.compile(
    r"\bsct_[A-Za-z0-9_-]{20,}"  # ours
    r"|\bhf_[A-Za-z0-9]{20,}"  # Hugging Face
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"  # AWS access keys
    r"|\bgh[pousr]_[A-Za-z0-9]{30,}"  # GitHub
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"  # JSON web tokens
    r"|(?<=://)[^/\s:@'\"]*:[^/\s'\"]+(?=@)"  # user:password in a URL
    r"|(?<=http://)[^/\s:@'\"]+(?=@)|(?<=https://)[^/\s:@'\"]+(?=@)"  # a token in the user's place
    # Authorization schemes, and signatures in URLs (S3's, also version 2, Google's, Azure's).
    r"|(?<=[Bb]earer )[A-Za-z0-9._~+/=-]{8,}"
    r"|(?<=[Bb]asic )(?=[A-Za-z+/_-]*[A-Z0-9=])[A-Za-z0-9+/_-]{8,}=*"
    r"|(?<=[Ss]ignature=)[A-Za-z0-9%+/_-]+=*|(?<=[?&]sig=)[A-Za-z0-9%+/_-]+=*"
    r"|(?<=X-Amz-Credential=)[A-Za-z0-9%/_-]+|(?<=X-Amz-Security-Token=)[A-Za-z0-9%+/_-]+=*"
)

_LONG_ENOUGH = 8
"""From this length on, a secret is replaced within words too; shorter ones would match parts of ordinary text."""

_BREAK = r"(?:\\[rn]|\s)*"
"""What may separate two characters of a secret that is broken over lines: white space, or escaped line breaks."""


class _Protected:
    """The secrets that this process knows, each with the pattern of its spellings."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._patterns: dict[str, re.Pattern[str]] = {}

    def add(self, secrets: Iterable[str]) -> list[str]:
        """Add secrets; returns the new ones."""
        with self._lock:
            new = [secret for secret in dict.fromkeys(secrets) if secret and secret not in self._patterns]
            # Longest first: one may be part of another.
            known = {**self._patterns, **{secret: _pattern_of(secret) for secret in new}}
            self._patterns = dict(sorted(known.items(), key=lambda entry: len(entry[0]), reverse=True))
            return new

    def remove(self, secrets: Iterable[str]) -> None:
        with self._lock:
            gone = set(secrets)
            self._patterns = {secret: found for secret, found in self._patterns.items() if secret not in gone}

    def replace(self, text: str) -> str:
        for pattern in self._patterns.values():
            text = pattern.sub(REDACTED, text)
        return text


_protected = _Protected()


def protect(secrets: Iterable[str | None]) -> None:
    """Register secrets in this process; from now on `redact` removes them. Harmless if repeated.

    Args:
        secrets: tokens, keys and passwords as they are used; None and empty ones are ignored.
    """
    _protected.add(secret.strip() for secret in secrets if secret)


@contextlib.contextmanager
def protecting(*secrets: str) -> Iterator[None]:
    """Protect secrets while the context lasts."""
    new = _protected.add(secrets)
    try:
        yield
    finally:
        _protected.remove(new)


def redact_text(text: str) -> str:
    """The text without secrets."""
    return _FORMS.sub(REDACTED, _protected.replace(text))


def redact(value: Any, key: str = "") -> Any:
    """A copy of plain data without secrets; other objects become strings.

    Args:
        value: text, numbers, mappings and sequences.
        key: the value's name, if it has one.
    """
    if key and _SECRET_KEY.search(key) and not _NOT_SECRET_KEY.search(key) and value not in (None, ""):
        return REDACTED
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, Mapping):
        return {redact_text(str(name)): redact(entry, str(name)) for name, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(entry) for entry in value]
    return redact_text(value.decode(errors="replace") if isinstance(value, bytes | bytearray) else str(value))


def passwords_of(url: str) -> Iterator[str]:
    """The password in a URL, as written and decoded."""
    userinfo, at, _ = url.partition("://")[2].partition("/")[0].rpartition("@")
    _, colon, password = userinfo.partition(":")
    secret = password if colon else userinfo
    if at and secret:
        yield secret
        yield unquote(secret)


def _pattern_of(secret: str) -> re.Pattern[str]:
    return re.compile("|".join(sorted(set(_spellings(secret)), key=len, reverse=True)))


def _spellings(secret: str) -> Iterator[str]:
    """Patterns for all the ways in which a secret may be written."""
    whole = len(secret) >= _LONG_ENOUGH
    escaped = {
        secret,
        repr(secret)[1:-1],
        repr(secret.encode())[2:-1],
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        html.escape(secret),
        secret.encode("ascii", "backslashreplace").decode(),
    }
    encoded = {quote(secret), quote(secret, safe=""), quote_plus(secret)}
    for text in escaped | encoded:
        yield _broken(text) if whole else rf"(?<![A-Za-z0-9]){re.escape(text)}(?![A-Za-z0-9])"
    for text in encoded - escaped:
        lower = re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), text)
        yield _broken(lower)
    if whole:
        for core in _in_base64(secret.encode()):
            yield re.escape(core)


def _broken(text: str) -> str:
    return _BREAK.join(r"(?:\\[rn]|\s)" if character.isspace() else re.escape(character) for character in text)


def _in_base64(secret: bytes) -> Iterator[str]:
    """The base64 characters that depend on the secret alone, for each of the three offsets at which it may start."""
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + secret).decode().rstrip("=")
        # The first characters depend on what comes before, the last on what follows.
        first = -(-8 * offset // 6)
        last = 8 * (offset + len(secret)) // 6
        core = encoded[first:last]
        yield core
        yield core.translate(str.maketrans("+/", "-_"))
