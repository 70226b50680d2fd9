"""From a reference to a local folder: look it up, pin it to a version, outline or fetch it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from secateur_service.artifacts.port import ObjectStore, check_key
from secateur_service.errors import PermanentError
from secateur_service.sources.bucket import BucketFolder
from secateur_service.sources.cache import Cache
from secateur_service.sources.metadata import write_metadata
from secateur_service.sources.reference import (
    BucketReference,
    FolderReference,
    HubReference,
    ReferenceRefusedError,
    allowed_folder,
    check_prefix,
    parse_reference,
)
from secateur_service.sources.remote import RemoteFolder
from secateur_service.sources.shard_window import Window

if TYPE_CHECKING:
    from secateur_service.sources.hub import Hub

_MAX_NAMES = 10_000

Wanted = Callable[[Collection[str]], Collection[str]]
"""Selects the files needed from a folder, given the names of all its files."""


@dataclass(frozen=True)
class Sources:
    """What a service may read, and how.

    Attributes:
        file_roots: folders on this machine below which it may read; None for all.
        bucket_prefixes: `s3://bucket/prefix` below which it may read; None for all.
        open_bucket: opens an object store at an `s3://` URI.
        open_hub: opens the hub with the account for a reference; None if the service has no hub.
        cache: keeps what was fetched.
    """

    file_roots: Sequence[Path] | None
    bucket_prefixes: Sequence[str] | None
    open_bucket: Callable[[str], ObjectStore]
    open_hub: Callable[[HubReference], Hub] | None
    cache: Cache

    def open(self, uri: str, revision: str | None = None) -> Source:
        """Look a reference up.

        Args:
            uri: URI of a folder.
            revision: the version wanted: a branch, tag or commit of a repository; for a prefix, the revision from an
                earlier look-up.

        Raises:
            ReferenceRefusedError: it is malformed, may not be read, or does not exist.
            TransientError: the place cannot be reached.
        """
        reference = parse_reference(uri)
        if isinstance(reference, FolderReference):
            if revision:
                raise ReferenceRefusedError("a folder has no revisions; leave revision empty")
            return LocalSource(uri, allowed_folder(reference, self.file_roots))
        remote = self._open_remote(reference, revision)
        plain = replace(reference, revision=None) if isinstance(reference, HubReference) else reference
        return RemoteSource(str(plain), remote, self.cache)

    def hub(self, reference: HubReference) -> Hub:
        """The hub, with the account for a reference.

        Raises:
            ReferenceRefusedError: the service has no hub.
        """
        if self.open_hub is None:
            raise ReferenceRefusedError("this service has no hub; set SECATEUR_HUB_ENDPOINT")
        return self.open_hub(reference)

    def _open_remote(self, reference: HubReference | BucketReference, revision: str | None) -> RemoteFolder:
        if isinstance(reference, HubReference):
            if revision and reference.revision and revision != reference.revision:
                raise ReferenceRefusedError("the URI and the field revision name different revisions; give one of them")
            wanted = HubReference(reference.kind, reference.repository, revision or reference.revision)
            return self.hub(wanted).open(wanted)
        if self.bucket_prefixes is not None:
            check_prefix(reference, self.bucket_prefixes)
        try:
            store = self.open_bucket(str(reference))
        except PermanentError as error:
            raise ReferenceRefusedError(error.message) from error
        folder = BucketFolder(store, reference)
        if revision and revision != folder.revision:
            raise ReferenceRefusedError(f"{reference} has changed since the job was submitted; submit it again")
        return folder


class Source(Protocol):
    """A folder that was looked up."""

    @property
    def uri(self) -> str:
        """Its reference, without a revision."""

    @property
    def revision(self) -> str | None:
        """The version; None for a folder on this machine."""

    @property
    def pinned_uri(self) -> str:
        """The reference to this very version, if references can express it."""

    def identity(self, wanted: Wanted) -> str:
        """Equal if the wanted files are the same; does not read them.

        For a folder on this machine it depends on sizes, times and inodes; otherwise on the version.
        """

    @property
    def names(self) -> Sequence[str]:
        """All its files, as relative paths.

        Raises:
            ReferenceRefusedError: it cannot be listed.
        """

    def outline(self, wanted: Wanted) -> contextlib.AbstractContextManager[Path]:
        """A folder that looks like this one to readers of names, sizes, configuration and headers.

        Raises:
            ReferenceRefusedError, TransientError: as `RemoteFolder.read` does.
        """

    def fetch(self, wanted: Wanted, *, check: Callable[[], None], on_progress: Callable[[int, int], None]) -> Path:
        """The folder with its content, on this machine; see `Cache.fetch`."""

    def window(
        self,
        wanted: Wanted,
        place: Path,
        *,
        check: Callable[[], None],
        on_shard: Callable[[str, int], None],
        on_progress: Callable[[int, int], None],
    ) -> Window:
        """A few shards at a time of a folder that does not fit on this machine; see `Window`."""


@dataclass(frozen=True)
class LocalSource:
    """A folder on this machine."""

    uri: str
    path: Path
    revision = None

    @property
    def pinned_uri(self) -> str:
        """The plain reference: there are no versions."""
        return self.uri

    def identity(self, wanted: Wanted) -> str:
        """Depends on the files' status in the file system."""
        digest = hashlib.sha256()
        for name in sorted(wanted([entry.name for entry in os.scandir(self.path)])):
            with contextlib.suppress(OSError):  # a broken link, or a loop
                found = (self.path / name).stat()
                key = (name, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
                digest.update(f"{key}\n".encode())
        return digest.hexdigest()

    @property
    def names(self) -> Sequence[str]:
        """The files in the folder and its direct subfolders; deeper ones are ignored."""
        found: list[str] = []
        try:
            for entry in sorted(self.path.iterdir()):
                inner = sorted(entry.iterdir()) if entry.is_dir() else [entry]
                found += (path.relative_to(self.path).as_posix() for path in inner)
                if len(found) > _MAX_NAMES:
                    raise ReferenceRefusedError(f"there are more than {_MAX_NAMES} files in {self.path}; name a folder")
        except OSError as error:
            raise ReferenceRefusedError(f"{error.filename} cannot be read: {error.strerror}") from error
        return found

    def outline(self, wanted: Wanted) -> contextlib.AbstractContextManager[Path]:  # noqa: ARG002 - everything is there
        """The folder itself."""
        return contextlib.nullcontext(self.path)

    def fetch(self, wanted: Wanted, **_: object) -> Path:  # noqa: ARG002
        """The folder itself."""
        return self.path

    def window(self, wanted: Wanted, place: Path, **_: object) -> Window:  # noqa: ARG002
        """The folder itself: everything is on this machine."""
        raise AssertionError(f"{self.uri} is here as a whole")


@dataclass(frozen=True)
class RemoteSource:
    """A folder somewhere else."""

    uri: str
    remote: RemoteFolder
    cache: Cache

    @property
    def revision(self) -> str:
        """The version of the remote folder."""
        return self.remote.revision

    @property
    def pinned_uri(self) -> str:
        """Includes a repository's commit; references to an object store cannot express a version."""
        return f"{self.uri}@{self.revision}" if self.uri.startswith("hf://") else self.uri

    def identity(self, wanted: Wanted) -> str:  # noqa: ARG002 - all files of a version are fixed
        """Depends on the version."""
        return hashlib.sha256(self.remote.identity.encode()).hexdigest()

    @property
    def names(self) -> Sequence[str]:
        """The names listed by the look-up."""
        return _plain(self.remote.files)

    @contextlib.contextmanager
    def outline(self, wanted: Wanted) -> Iterator[Path]:
        """A temporary folder that exists as long as the context."""
        with tempfile.TemporaryDirectory(prefix="secateur-outline-") as name:
            write_metadata(self.remote, _plain(wanted(self.remote.files)), Path(name))
            yield Path(name)

    def fetch(
        self,
        wanted: Wanted,
        *,
        check: Callable[[], None] = lambda: None,
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> Path:
        """The wanted files, in the cache."""
        names = _plain(wanted(self.remote.files))
        reference = f"{self.uri}@{self.revision}"
        return self.cache.fetch(self.remote, names, reference=reference, check=check, on_progress=on_progress)

    def window(
        self,
        wanted: Wanted,
        place: Path,
        *,
        check: Callable[[], None] = lambda: None,
        on_shard: Callable[[str, int], None] = lambda _name, _bytes: None,
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> Window:
        """The wanted files, a few shards at a time."""
        place.mkdir(parents=True, exist_ok=True)
        names = _plain(wanted(self.remote.files))
        return Window(self.remote, names, place, self.cache.window_bytes(place), check, on_shard, on_progress)


def _plain(names: Collection[str]) -> list[str]:
    """The names that are valid relative file paths in any file system."""
    return [name for name in names if _is_plain(name)]


def _is_plain(name: str) -> bool:
    try:
        check_key(name)
    except PermanentError:
        return False
    return True
