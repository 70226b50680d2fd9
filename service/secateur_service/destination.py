"""Destinations: where results may be published, parsed in one place for settings, admission and publisher.

    s3://bucket/prefix      a bucket, and a prefix of the keys in it
    file:///folder          a folder on this machine, percent-encoded as URIs are

Every accepted destination leaves room for what is appended: the job's id and the path of a result file.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

MAX_KEY_BYTES = 1024
"""The longest object key that S3 accepts."""

APPENDED_BYTES = 256
"""At most this many bytes follow a destination: `/{job id}/{path of a file}`."""

_MAX_PATH_BYTES = 4095 - APPENDED_BYTES  # Linux's PATH_MAX, without the terminating byte
_MAX_NAME_BYTES = 255
_BUCKET = re.compile(r"[a-z0-9][a-z0-9_.-]{1,61}[a-z0-9]", re.IGNORECASE | re.ASCII)
_ADDRESS = re.compile(r"[0-9]+(\.[0-9]+){3}", re.ASCII)
# Control characters, directional and other invisible format marks, surrogates, line and paragraph separators.
_INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp")


class DestinationRefusedError(ValueError):
    """The text is not a destination; the message gives the fault and the remedy, without repeating the text."""


@dataclass(frozen=True)
class Bucket:
    """The objects in a bucket whose keys begin with a prefix, which may be empty and has no slashes at its ends."""

    name: str
    prefix: str


Destination = Bucket | Path


def parse_destination(uri: str) -> Destination:
    """Parse a destination; nothing is looked up.

    Returns:
        A bucket with its prefix, or the absolute path of a folder.

    Raises:
        DestinationRefusedError: it is not a destination, or objects below it could not be named.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme not in ("s3", "file"):
        raise DestinationRefusedError("not a destination; use s3://bucket/prefix or file:///absolute/folder")
    for character in ("?", "#", "\\"):
        if character in rest:
            raise DestinationRefusedError(
                f"{character!r} may not be part of a path; use s3://bucket/prefix or file:///folder"
            )
    return _bucket(rest) if scheme == "s3" else _folder(rest)


def lies_below(destination: Destination, other: Destination) -> bool:
    """Whether a destination equals another one or lies below it."""
    if isinstance(destination, Bucket) and isinstance(other, Bucket):
        inside = f"{destination.prefix}/".startswith(f"{other.prefix}/") or not other.prefix
        return destination.name == other.name and inside
    return isinstance(destination, Path) and isinstance(other, Path) and destination.is_relative_to(other)


def _bucket(rest: str) -> Bucket:
    name, _, prefix = rest.partition("/")
    if not _BUCKET.fullmatch(name) or _ADDRESS.fullmatch(name) or re.search(r"\.\.|\.-|-\.", name):
        raise DestinationRefusedError(
            "not a valid name of a bucket: it has 3 to 63 letters, digits, dots and hyphens; use "
            "s3://bucket/prefix or file:///absolute/folder"
        )
    if "%" in prefix:
        raise DestinationRefusedError("'%' may not be part of a destination in S3, whose names are not encoded")
    prefix = prefix.removesuffix("/")
    longest = MAX_KEY_BYTES - APPENDED_BYTES
    if len(prefix.encode("utf-8", "replace")) > longest:
        raise DestinationRefusedError(
            f"the prefix is longer than {longest} bytes; S3 takes keys of {MAX_KEY_BYTES} bytes, and names of files "
            "are appended"
        )
    if prefix:
        _check_parts(prefix.split("/"))
    return Bucket(name, prefix)


def _folder(rest: str) -> Path:
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost") or not slash:
        raise DestinationRefusedError(
            "a file URI has an absolute path and no host; use s3://bucket/prefix or file:///absolute/folder"
        )
    try:
        path = unquote_to_bytes(path.encode()).decode().removesuffix("/")
    except UnicodeError as error:
        raise DestinationRefusedError("the path is not UTF-8; choose another folder") from error
    if not path:
        raise DestinationRefusedError("results cannot go to the root of the file system; name a folder")
    parts = path.split("/")
    _check_parts(parts)
    if len(path.encode()) > _MAX_PATH_BYTES or any(len(part.encode()) > _MAX_NAME_BYTES for part in parts):
        raise DestinationRefusedError(
            f"the path is longer than {_MAX_PATH_BYTES} bytes, or a name in it than {_MAX_NAME_BYTES}; choose a "
            "shorter one"
        )
    return Path(f"/{path}")


def _check_parts(parts: list[str]) -> None:
    """Check that every part of a path is visible to people and distinct in every store."""
    for part in parts:
        if part in ("", ".", ".."):
            found = f"a part {part!r} is" if part else "two slashes in a row are"
            raise DestinationRefusedError(f"{found} no part of a path to results; leave it out")
        hidden = next((character for character in part if unicodedata.category(character) in _INVISIBLE), None)
        if hidden is not None:
            raise DestinationRefusedError(f"the character U+{ord(hidden):04X} in the path cannot be seen; leave it out")
        if part != part.strip():
            raise DestinationRefusedError("a part of the path begins or ends with a space; leave it out")
