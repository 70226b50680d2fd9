"""A remote folder: what the adapters for hub and object store have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class RemoteFile:
    """A file of a remote folder.

    Attributes:
        name: path within the folder; it may be in a subfolder.
        sha256: digest of its content; None if the source does not give it.
    """

    name: str
    size_bytes: int
    sha256: str | None = None


@dataclass(frozen=True)
class DataSet:
    """A data set on the hub that is read in parts.

    Attributes:
        commit: the version.
        configurations: the names of its configurations; None if its card does not list them.
    """

    commit: str
    configurations: frozenset[str] | None


class RemoteFolder(Protocol):
    """A folder whose content is fixed: a commit, or a listing with the objects' versions."""

    @property
    def identity(self) -> str:
        """Source, name and version; equal identities mean equal contents."""

    @property
    def revision(self) -> str:
        """The version, as stored in a job's specification."""

    @property
    def files(self) -> Mapping[str, RemoteFile]:
        """The files by name."""

    def read(self, file: RemoteFile, start: int, stop: int) -> Iterator[bytes]:
        """The bytes [start, stop) of a file in pieces; fewer if the connection ends early.

        Raises:
            ReferenceRefusedError: it is gone, or the service's credentials may not read it.
            TransientError: the source cannot be reached, is throttled, or breaks off.
        """
