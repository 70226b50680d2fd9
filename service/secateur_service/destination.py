"""Destinations: where results may be published, told from text in one place for settings, admission and publisher.

    s3://bucket/prefix      a bucket, and the beginning of the keys in it
    file:///folder          a folder of this machine, percent-encoded as URIs are

What is appended to a destination (the job's id and the path of a file of the result) fits behind whatever is accepted.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

MAX_KEY_BYTES = 1024
"""What S3 takes as the name of an object."""

APPENDED_BYTES = 256
"""At most so many bytes follow a destination: `/{job id}/{path of a file}`."""

_MAX_PATH_BYTES = 4095 - APPENDED_BYTES  # PATH_MAX of Linux, without the byte that ends a path
_MAX_NAME_BYTES = 255
_BUCKET = re.compile(r"[a-z0-9][a-z0-9_.-]{1,61}[a-z0-9]", re.IGNORECASE | re.ASCII)
_ADDRESS = re.compile(r"[0-9]+(\.[0-9]+){3}", re.ASCII)
# Controls, directions and other marks without a shape, half characters, ends of lines and paragraphs.
_INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp")


class DestinationRefusedError(ValueError):
    """The text is not a destination; the message says what is wrong with it, without repeating it, and the remedy."""


@dataclass(frozen=True)
class Bucket:
    """The objects of a bucket whose keys begin with a prefix, which has no slashes at its ends and may be empty."""

    name: str
    prefix: str


Destination = Bucket | Path


def parse_destination(uri: str) -> Destination:
    """Read a destination; nothing is looked up.

    Returns:
        A bucket with its prefix, or the absolute path of a folder.

    Raises:
        DestinationRefusedError: it is none, or objects below it could not be named.
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
    """Whether a destination is another one or lies below it."""
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
    """Every part of a path is one that people see and every store keeps apart."""
    for part in parts:
        if part in ("", ".", ".."):
            found = f"a part {part!r} is" if part else "two slashes in a row are"
            raise DestinationRefusedError(f"{found} no part of a path to results; leave it out")
        hidden = next((character for character in part if unicodedata.category(character) in _INVISIBLE), None)
        if hidden is not None:
            raise DestinationRefusedError(f"the character U+{ord(hidden):04X} in the path cannot be seen; leave it out")
        if part != part.strip():
            raise DestinationRefusedError("a part of the path begins or ends with a space; leave it out")
