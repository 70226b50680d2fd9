"""Downloads published files: resumed, verified, put into place atomically, and never outside the folder.

A file is written under a hidden name that carries its digest, so that leftovers of another version are never resumed.
It is renamed only when its size and SHA-256 are those that the service published. Paths from the service are not
trusted.
"""

from __future__ import annotations

import enum
import hashlib
import http.client
import os
import re
import shutil
import ssl
import stat
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from urllib.parse import urlsplit

from secateur._artifact import Artifact
from secateur._errors import ClientClosedError, DownloadError, IntegrityError
from secateur._foreign import detail_of
from secateur._terminal import UNSAFE
from secateur._text import size
from secateur._verify import job_of

_CHUNK_BYTES = 2**20
_TRIES = 5
_MAX_FILES = 10_000
_TIMEOUT_SECONDS = 60.0
_PARTIAL = ".partial"
_SHARD = ".safetensors"
FOLDER_OF_ANOTHER_JOB = "FOLDER_OF_ANOTHER_JOB"
_EXPIRED = (401, 403, 404, 410)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HARMFUL = re.compile(r"[\\:]" if os.name == "nt" else r"\\")


@dataclass(frozen=True)
class DownloadProgress:
    """How far a download is.

    Attributes:
        path: Path of the file being fetched, below the job's prefix.
        bytes_done: Bytes in place over all files, including those that were there before.
        bytes_total: Bytes of all files.
    """

    path: str
    bytes_done: int
    bytes_total: int


class Downloaded(list[Path]):
    """The paths of all files of a job, and which of them were not here as they should be.

    Attributes:
        fetched: Files that were not here, or not complete.
        repaired: Files that were here with another content, and were replaced.
    """

    def __init__(self, paths: Iterable[Path], fetched: Iterable[Path], repaired: Iterable[Path]) -> None:
        super().__init__(paths)
        self.fetched = tuple(fetched)
        self.repaired = tuple(repaired)


class Outcome(enum.Enum):
    """What became of a file."""

    KEPT = enum.auto()
    FETCHED = enum.auto()
    REPAIRED = enum.auto()


class Source(Protocol):
    """A source of a file's bytes."""

    def read(self, size: int, /) -> bytes:
        """Read up to `size` bytes; none at the end."""


class ExpiredUrlError(DownloadError):
    """The store refused a URL; a fresh one may help."""


@dataclass(frozen=True)
class Transfer:
    """One file to fetch into a folder.

    Attributes:
        artifact: The file.
        target: Where it goes.
        stopped: Ends the transfer when set.
        advanced: Called with the number of bytes that arrived, or were discarded (negative).
        wait_seconds: First wait after a failure; it doubles.
    """

    artifact: Artifact
    target: Path
    stopped: threading.Event
    advanced: Callable[[int], None]
    wait_seconds: float = 0.4

    def fetch(self, url: str) -> Outcome:
        """Put the file into place, unless it is already there; returns what was to be done.

        Raises:
            ExpiredUrlError: the URL was refused; try a fresh one.
            DownloadError: it cannot be fetched.
            IntegrityError: what arrives is not what was published.
        """
        if self.target.parent.resolve() != self.target.parent:
            raise IntegrityError(f"{self.target.parent} is a link or within one by now; download elsewhere")
        self.target.parent.mkdir(parents=True, exist_ok=True)
        if self._is_in_place():
            self.advanced(self.artifact.size_bytes)
            return Outcome.KEPT
        outcome = Outcome.REPAIRED if os.path.lexists(self.target) else Outcome.FETCHED
        partial = _partial(self.target, self.artifact)
        resumed = partial.exists()
        if self._complete(partial, url) != self.artifact.sha256:
            # What an earlier run left may be damaged; start again from the first byte.
            partial.unlink()
            self.advanced(-self.artifact.size_bytes)
            if not resumed or self._complete(partial, url) != self.artifact.sha256:
                partial.unlink(missing_ok=True)
                raise IntegrityError(
                    f"{self.artifact.path} arrived with another SHA-256 than the one published, twice or in one piece; "
                    "it was discarded. Download again; if it stays so, the store has lost the file"
                )
        partial.replace(self.target)
        _sync_folder(self.target.parent)
        return outcome

    def _is_in_place(self) -> bool:
        if (
            self.target.is_symlink()
            or not self.target.is_file()
            or self.target.stat().st_size != self.artifact.size_bytes
        ):
            return False
        with self.target.open("rb") as file:
            return self._digest(file).hexdigest() == self.artifact.sha256

    def _complete(self, partial: Path, url: str) -> str:
        """Bring a partial file to its full size; returns the digest of its content."""
        with _open_partial(partial) as file:
            if os.fstat(file.fileno()).st_size > self.artifact.size_bytes:
                file.truncate(0)
            digest = self._digest(file)
            self.advanced(file.tell())
            failures = 0
            while file.tell() < self.artifact.size_bytes:
                before = file.tell()
                problem = self._append(file, digest, url)
                if problem is not None:
                    failures = failures + 1 if file.tell() == before else 1
                    if failures >= _TRIES:
                        raise DownloadError(
                            f"{self.artifact.path} cannot be fetched: {problem}; {file.tell()} of "
                            f"{self.artifact.size_bytes} bytes are here, download again to resume from there"
                        )
                    self.stopped.wait(self.wait_seconds * 2 ** (failures - 1))
            file.flush()
            os.fsync(file.fileno())
        return digest.hexdigest()

    def _append(self, file: BinaryIO, digest: Any, url: str) -> str | None:
        """Continue from the end of the file; returns what went wrong, if anything."""
        try:
            with open_url(url, file.tell()) as source:
                while file.tell() < self.artifact.size_bytes:
                    self._check_stopped()
                    chunk = source.read(min(_CHUNK_BYTES, self.artifact.size_bytes - file.tell()))
                    if not chunk:
                        return "the connection ended early"
                    file.write(chunk)
                    digest.update(chunk)
                    self.advanced(len(chunk))
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in _EXPIRED:
                self.advanced(-file.tell())
                raise ExpiredUrlError(f"the store refuses {self.artifact.path} (HTTP {error.code})") from error
            return f"the store answers HTTP {error.code}"
        except (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, TimeoutError, ConnectionError) as error:
            if isinstance(error, urllib.error.URLError) and not isinstance(error.reason, BaseException):
                return "the store leads to an address that is no http one"
            return detail_of(error)
        return None

    def _digest(self, file: BinaryIO) -> Any:
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK_BYTES):
            self._check_stopped()
            digest.update(chunk)
        return digest

    def _check_stopped(self) -> None:
        if self.stopped.is_set():
            raise ClientClosedError("the download was stopped; download again to resume from there")


def check_free(root: Path, job: str, targets: Mapping[str, Path], artifacts: Sequence[Artifact]) -> None:
    """Refuse a folder with the result of another job, whose files would lie between this one's.

    Raises:
        DownloadError: with reason FOLDER_OF_ANOTHER_JOB. Nothing has been written.
    """
    found = job_of(root)
    if found == job:
        return
    remedy = "choose another folder, or empty this one; nothing was downloaded"
    if found is not None:
        raise DownloadError(f"{root} holds the result of job {found}; {remedy}", reason=FOLDER_OF_ANOTHER_JOB)
    ours = {*targets.values(), *(_partial(targets[each.path], each) for each in artifacts)}
    folders = {target.parent for path, target in targets.items() if path.endswith(_SHARD)}
    foreign = (path for folder in folders if folder.is_dir() for path in folder.iterdir() if path not in ours)
    for path in foreign:
        if path.name.endswith(_SHARD) or (_SHARD in path.name and path.suffix == _PARTIAL):
            fault = f"{path} is a part of another model, perhaps of an interrupted download"
            raise DownloadError(f"{fault}; {remedy}", reason=FOLDER_OF_ANOTHER_JOB)


def plan_targets(folder: Path, artifacts: Sequence[Artifact]) -> dict[str, Path]:
    """Where each file goes, by its path below the job's prefix.

    Raises:
        IntegrityError: a path leads out of the folder or occurs twice, or a digest or size is invalid. Nothing has been
            written.
        DownloadError: the files do not fit on the disk. Nothing has been written.
    """
    root = folder.resolve()
    if len(artifacts) > _MAX_FILES:
        raise IntegrityError(f"the service lists {len(artifacts)} files, more than any job has; nothing was downloaded")
    targets: dict[str, Path] = {}
    for artifact in artifacts:
        if artifact.path in targets:
            raise IntegrityError(f"the service lists {artifact.path!r} twice; nothing was downloaded")
        if not _SHA256.fullmatch(artifact.sha256) or artifact.size_bytes < 0:
            raise IntegrityError(f"the service gives no valid digest of {artifact.path!r}; nothing was downloaded")
        targets[artifact.path] = _target(root, artifact.path)
    _check_room(root, artifacts, targets)
    return targets


def _check_room(root: Path, artifacts: Sequence[Artifact], targets: Mapping[str, Path]) -> None:
    """Check that the announced files fit on the disk, counting what is already there."""
    there = next(place for place in (root, *root.parents) if place.exists())
    wanted = sum(artifact.size_bytes for artifact in artifacts)
    places = [place for each in artifacts for place in (targets[each.path], _partial(targets[each.path], each))]
    here = sum(place.stat().st_size for place in places if place.is_file())
    free = shutil.disk_usage(there).free
    if wanted - here > free:
        raise DownloadError(
            f"the files take {size(wanted)}, of which {size(here)} are here, and {there} has {size(free)} free; "
            "nothing was downloaded, make room or choose another folder"
        )


def _partial(target: Path, artifact: Artifact) -> Path:
    """Where a file is kept while it arrives."""
    return target.with_name(f".{target.name[:100]}.{artifact.sha256[:16]}{_PARTIAL}")


def _target(root: Path, path: str) -> Path:
    parts = path.split("/")
    if any(part in ("", ".", "..") or _HARMFUL.search(part) or UNSAFE.search(part) for part in parts):
        raise IntegrityError(
            f"the service lists {path!r}, which leads out of {root} or is no plain path; nothing was downloaded"
        )
    if any(part.startswith(".") for part in (parts[0], *parts[:-1])):
        raise IntegrityError(f"the service lists {path!r}, a hidden file or folder; nothing was downloaded")
    target = root.joinpath(*parts)
    _check_folder(target.parent, root)
    return target


def _check_folder(folder: Path, root: Path) -> None:
    """Refuse to write through a link in the download folder."""
    for place in (folder, *folder.parents):
        if place == root:
            return
        if place.is_symlink():
            raise IntegrityError(f"{place} is a link, which is not followed; remove it, or download elsewhere")


@contextmanager
def open_url(url: str, start: int) -> Iterator[Source]:
    """Open a URL for reading from byte `start` on.

    Raises:
        OSError: it cannot be read, in urllib's classes for `http`.
        DownloadError: the URL cannot be read from here.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        with _open_local(Path(urllib.request.url2pathname(parts.path))) as file:
            file.seek(start)
            yield file
    elif parts.scheme in ("http", "https"):
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with _opener().open(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_SECONDS) as response:  # noqa: S310 - the scheme is checked
            _skip_to(response, start)
            yield response
    else:
        raise DownloadError(f"the service offers a URL that cannot be read: {parts.scheme}://{parts.netloc}...")


def _open_local(path: Path) -> BinaryIO:
    try:
        # Opening a pipe must not wait for a writer.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        file = os.fdopen(os.open(path, flags), "rb")
    except OSError as error:
        raise DownloadError(
            f"cannot read {path}: {error.strerror}; the service keeps its artifacts in a folder of its own machine, so "
            "download there, or give the service an S3 destination"
        ) from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise DownloadError(f"{path} is no regular file")
    return file


def _skip_to(response: Any, start: int) -> None:
    """Skip what is already here if the server does not honour Range."""
    if response.status == http.client.PARTIAL_CONTENT:
        offered = response.headers.get("Content-Range", "")
        if not offered.startswith(f"bytes {start}-"):
            raise http.client.HTTPException(f"asked for bytes from {start} on, got {offered!r}")
        return
    while start > 0:
        chunk = response.read(min(_CHUNK_BYTES, start))
        if not chunk:
            raise http.client.HTTPException("the connection ended early")
        start -= len(chunk)


def _opener() -> urllib.request.OpenerDirector:
    """An opener that only supports HTTP, whatever a redirect says."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _open_partial(path: Path) -> BinaryIO:
    """Open a partial file for reading and writing, without following a link."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NONBLOCK", 0)
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DownloadError(f"{path} is no regular file; remove it")
    return os.fdopen(descriptor, "r+b")


def _sync_folder(folder: Path) -> None:
    """Make a rename durable if the system supports it."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
