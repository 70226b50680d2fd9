"""Checks a result on this machine against its manifest, without a service: a downloaded one, or one of `run`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur._errors import IntegrityError

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 64 * 2**20
_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Verification:
    """What a folder holds of a result.

    Attributes:
        folder: The folder.
        job: Name of the job in the manifest.
        manifest_sha256: SHA-256 of the manifest, which vouches for all other files; the job has it in its result.
        files: Number of files that the manifest names.
        damaged: Paths of files with another size or SHA-256.
        missing: Paths of files that are not there.
        extra: Paths of files that the manifest does not name; they do not count against the result.
    """

    folder: Path
    job: str
    manifest_sha256: str
    files: int
    damaged: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]

    @property
    def intact(self) -> bool:
        """Whether all files are there as they were published."""
        return not (self.damaged or self.missing)

    def __str__(self) -> str:
        good = self.files - len(self.damaged) - len(self.missing)
        counts = [f"{good} of {self.files} files are intact"]
        named = (("damaged", self.damaged), ("missing", self.missing), ("extra", self.extra))
        return ", ".join(counts + [f"{len(paths)} {word}" for word, paths in named if paths])


def verify(folder: str | os.PathLike[str], *, manifest_sha256: str | None = None) -> Verification:
    """Check every file of a result by its size and SHA-256, and list what is missing and what is extra.

    Args:
        folder: A downloaded result, or one of `secateur-service run`.
        manifest_sha256: What the manifest's digest has to be, so that nobody can have replaced the files with it; by
            default the manifest in the folder is trusted.

    Raises:
        IntegrityError: there is no manifest, or it is damaged, or not the one with that digest.
    """
    root = Path(folder)
    content, digest = _manifest(root)
    if manifest_sha256 is not None and digest != manifest_sha256.strip().lower():
        raise IntegrityError(f"{root / MANIFEST} has the SHA-256 {digest}, not {manifest_sha256}; it is another result")
    try:
        job, files = str(content["job_id"]), {str(entry["path"]): entry for entry in content["files"]}
        states = {path: _state(root, path, entry["size_bytes"], entry["sha256"]) for path, entry in files.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{root / MANIFEST} is damaged; download the job again to repair it") from error
    return Verification(
        folder=root,
        job=job,
        manifest_sha256=digest,
        files=len(files),
        damaged=tuple(sorted(path for path, state in states.items() if state == "damaged")),
        missing=tuple(sorted(path for path, state in states.items() if state == "missing")),
        extra=tuple(sorted(path for path in _paths(root) if path not in files and path != MANIFEST)),
    )


def job_of(folder: Path) -> str | None:
    """The job whose manifest a folder holds; None if there is none, or nobody can read it."""
    try:
        return str(_manifest(folder)[0]["job_id"])
    except (IntegrityError, KeyError, TypeError):
        return None


def _manifest(root: Path) -> tuple[Any, str]:
    """The manifest's content and digest."""
    path = root / MANIFEST
    if not root.is_dir():
        raise IntegrityError(f"there is no folder {root}; name the folder of a result")
    try:
        with path.open("rb") as file:
            encoded = file.read(MAX_MANIFEST_BYTES)
        return json.loads(encoded), hashlib.sha256(encoded).hexdigest()
    except FileNotFoundError:
        raise IntegrityError(
            f"{root} has no {MANIFEST}, which a download puts into place last; download the job again to complete it"
        ) from None
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path} is damaged; download the job again to repair it") from error


def _state(root: Path, path: str, size_bytes: int, sha256: str) -> str:
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise IntegrityError(f"{root / MANIFEST} names {path!r}, which leads out of the folder; it is none of ours")
    if not (root / path).is_file():
        return "damaged" if (root / path).exists() else "missing"
    try:
        with (root / path).open("rb") as file:
            if os.fstat(file.fileno()).st_size != size_bytes:
                return "damaged"
            digest = hashlib.sha256()
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise IntegrityError(f"{root / path} cannot be read: {error.strerror}") from error
    return "intact" if digest.hexdigest() == sha256 else "damaged"


def _paths(root: Path) -> Iterator[str]:
    for folder, _, names in os.walk(root):
        for name in names:
            yield (Path(folder) / name).relative_to(root).as_posix()
