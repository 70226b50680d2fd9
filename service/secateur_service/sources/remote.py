"""A folder somewhere else: what adapters of hub and object store have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class RemoteFile:
    """A file of a remote folder.

    Attributes:
        name: within the folder; it may lie in a subfolder.
        sha256: of its content, None where the source does not tell.
    """

    name: str
    size_bytes: int
    sha256: str | None = None


@dataclass(frozen=True)
class DataSet:
    """A data set of the hub that is read a part at a time.

    Attributes:
        commit: the version.
        configurations: the names of its configurations; None where its card does not tell.
    """

    commit: str
    configurations: frozenset[str] | None


class RemoteFolder(Protocol):
    """A folder whose content does not change: a commit, or a listing with the objects' versions."""

    @property
    def identity(self) -> str:
        """Source, name and version; equal identities have equal contents."""

    @property
    def revision(self) -> str:
        """The version, as the specification of a job keeps it."""

    @property
    def files(self) -> Mapping[str, RemoteFile]:
        """The files by name."""

    def read(self, file: RemoteFile, start: int, stop: int) -> Iterator[bytes]:
        """The bytes [start, stop) of a file in pieces; fewer where the connection ends early.

        Raises:
            ReferenceRefusedError: gone, or not to be read with the service's credentials.
            TransientError: the source cannot be reached, is throttled, or breaks off.
        """
