"""References to folders of models and corpora, and which of them may be read.

    file:///absolute/path                    below the roots of the service
    hf://org/name[@revision]                 a model repository of the hub
    hf://datasets/org/name[@revision]        a data set repository of the hub
    s3://bucket/prefix                       below the prefixes of the service

Whoever runs `secateur-service run` owns the machine, so `file://` needs no root there. No reference names a host: the
operator chooses the hub and the object store.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from secateur._terminal import first_unsafe
from secateur_service.links import place_of, repository_of

_NAME = r"[A-Za-z0-9][\w.-]{0,95}"
_REPOSITORY = re.compile(rf"(?P<kind>datasets/)?(?P<name>{_NAME}(/{_NAME})?)(@(?P<revision>.*))?", re.ASCII)
_UNMARKED = re.compile(rf"{_NAME}/{_NAME}", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,254}", re.ASCII)
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class ReferenceRefusedError(ValueError):
    """The reference is malformed or may not be read; the message gives the remedy."""


@dataclass(frozen=True)
class HubReference:
    """A repository of the hub; without a revision, its main branch."""

    kind: Literal["model", "dataset"]
    repository: str
    revision: str | None

    def __str__(self) -> str:
        kind = "datasets/" if self.kind == "dataset" else ""
        return f"hf://{kind}{self.repository}" + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True)
class BucketReference:
    """The objects in a bucket below a prefix, which has no slashes at its ends."""

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


@dataclass(frozen=True)
class FolderReference:
    """A folder on this machine, with symbolic links resolved."""

    path: Path


Reference = FolderReference | HubReference | BucketReference
_HUB_PAGES = "https://huggingface.co/"


def parse_reference(uri: str) -> Reference:
    """Parse a reference; nothing is looked up except a path's symbolic links.

    Raises:
        ReferenceRefusedError: it is malformed, or has an unknown scheme.
    """
    _refuse_unsafe(uri)
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme not in ("file", "hf", "s3"):
        raise ReferenceRefusedError(_unknown_scheme(uri, scheme if separator else None))
    if scheme == "file":
        return FolderReference(_path(uri))
    return _hub(rest) if scheme == "hf" else _bucket(rest)


def _unknown_scheme(uri: str, scheme: str | None) -> str:
    """That a reference has no scheme of ours, with the reference that was probably meant."""
    meant = "file:///absolute/path, hf://org/name or s3://bucket/prefix"
    if uri.startswith("/"):
        meant = f"file://{uri}"
    elif uri.startswith(_HUB_PAGES) and len(parts := uri.removeprefix(_HUB_PAGES).strip("/").split("/")) == 2:
        meant = f"hf://{'/'.join(parts)}"
    elif _UNMARKED.fullmatch(uri):
        meant = f"hf://{uri}, hf://datasets/{uri} for a data set, or file:///absolute/path"
    return f"unknown scheme {scheme!r}; use {meant}" if scheme else f"no scheme; use {meant}"


def allowed_folder(reference: FolderReference, roots: Sequence[Path] | None) -> Path:
    """The folder, if it is below a root; `roots` of None allow every folder.

    Raises:
        ReferenceRefusedError: it is outside the roots, with the same message whether or not it exists; or it is not a
            folder.
    """
    path = reference.path
    if roots is not None and not any(path.is_relative_to(root.resolve()) for root in roots):
        allowed = ", ".join(str(root) for root in roots) or "none is configured"
        remedy = "put it below one of them, or have the service started with another (--file-root, SECATEUR_FILE_ROOTS)"
        raise ReferenceRefusedError(f"outside the folders that this service may read ({allowed}); {remedy}")
    if not os.path.isdir(path):  # noqa: PTH112 - unlike Path.is_dir, False for names that no system call accepts
        raise ReferenceRefusedError(f"no such folder where the service runs: {path}")
    if roots is not None:
        _refuse_links_out(path, roots)
    _refuse_special_files(path)
    return path


def _refuse_unsafe(text: str) -> None:
    unsafe = first_unsafe(text)
    if unsafe is not None:
        raise ReferenceRefusedError(
            f"there is a line break or another character that no terminal shows in it ({unsafe}); use a name without it"
        )


def _refuse_special_files(folder: Path) -> None:
    """Refuse pipes, devices and sockets: reading one may take for ever."""
    folders = [folder, *(entry for entry in folder.iterdir() if entry.is_dir())]
    for entry in (inner for outer in folders for inner in outer.iterdir()):
        try:
            mode = entry.stat().st_mode
        except OSError:  # a broken link; whoever needs it reports it
            continue
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ReferenceRefusedError(
                f"{entry.relative_to(folder)} is a pipe, a device or a socket; remove it from the folder"
            )


def _refuse_links_out(folder: Path, roots: Sequence[Path]) -> None:
    """Refuse links that lead out of the roots; links within them are fine: caches are made of them."""
    allowed = [root.resolve() for root in roots]
    entries = [folder, *(entry for entry in folder.iterdir() if entry.is_dir())]
    for entry in (inner for outer in entries for inner in outer.iterdir()):
        if not entry.is_symlink() or (place := place_of(entry)) is None:
            continue  # a link loop leads nowhere, so nothing can be read through it
        if not any(place.is_relative_to(root) for root in allowed):
            repository = repository_of(folder)
            hint = f"; it is one of a hub's cache, make {repository} a root" if repository else ""
            raise ReferenceRefusedError(f"{entry.name} is a link out of the folders that this service may read{hint}")


def check_prefix(reference: BucketReference, prefixes: Sequence[str]) -> None:
    """Return if the reference lies below one of the prefixes `s3://bucket/prefix`.

    Raises:
        ReferenceRefusedError: it does not.
    """
    if not any(f"{reference}/".startswith(f"{prefix.rstrip('/')}/") for prefix in prefixes):
        allowed = ", ".join(prefixes) or "none is configured, set SECATEUR_S3_SOURCES"
        raise ReferenceRefusedError(f"not below a prefix that this service may read ({allowed})")


def _path(uri: str) -> Path:
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise ReferenceRefusedError("not a URI; use file:///absolute/path") from error
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise ReferenceRefusedError("a file URI has no host, query or fragment; use file:///absolute/path")
    raw = unquote(parts.path)
    if not raw.startswith("/") or "\0" in raw:
        raise ReferenceRefusedError("not an absolute path; use file:///absolute/path")
    _refuse_unsafe(raw)
    try:
        return Path(raw).resolve()
    except (OSError, RuntimeError) as error:
        raise ReferenceRefusedError("the path cannot be resolved; check it for loops and over-long names") from error


def _hub(rest: str) -> HubReference:
    match = _REPOSITORY.fullmatch(rest)
    if match is None or ".." in match["name"] or "--" in match["name"] or match["name"].endswith((".git", ".ipynb")):
        raise ReferenceRefusedError(
            "not a repository; use hf://org/name, hf://datasets/org/name or hf://org/name@revision"
        )
    revision = match["revision"]
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise ReferenceRefusedError("not a revision; use a branch, a tag or a commit, as in hf://org/name@main")
    return HubReference("dataset" if match["kind"] else "model", match["name"], revision)


def _bucket(rest: str) -> BucketReference:
    bucket, _, prefix = rest.partition("/")
    prefix = prefix.removesuffix("/")
    parts = prefix.split("/")
    plain = not any(part in ("", ".", "..") for part in parts) and not re.search(r"[\x00-\x1f\x7f\\%?#]", prefix)
    if not _BUCKET.fullmatch(bucket) or not plain or len(prefix.encode("utf-8", "replace")) > 900:
        raise ReferenceRefusedError(
            "not a prefix of a bucket; use s3://bucket/prefix without '.', '..', '%', '?' or '#'"
        )
    return BucketReference(bucket, prefix)
