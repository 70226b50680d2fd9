"""Files that are whole after a crash: content first, then the name, each on disk before the next; and their digests."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def write_durably(path: Path, content: bytes) -> None:
    """Write a small file so that after a crash either the old or the new content is there, whole."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    sync(partial)
    partial.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Return when a file's content, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
