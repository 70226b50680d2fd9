"""The manifest: the list of a job's published files, written last. Readers trust no files without it."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from secateur_service.artifacts.port import check_key
from secateur_service.bounded import JsonLimits, UnreadableJsonError, parse_json
from secateur_service.durable import file_digest
from secateur_service.errors import PermanentError

MANIFEST_NAME = "manifest.json"
MEDIA_TYPE = "application/json"
INVALID_MANIFEST = "INVALID_MANIFEST"
MAX_MANIFEST_BYTES = 16 << 20
_LIMITS = JsonLimits(MAX_MANIFEST_BYTES, values=500_000)

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAMED_DIGEST = re.compile(r"(?<![0-9a-f])[0-9a-f]{12,64}(?![0-9a-f])")


class LocalFile(NamedTuple):
    """A finished file on this machine, to be published."""

    source: Path
    path: str
    """Its path below the job's prefix."""
    media_type: str


class ManifestFile(BaseModel):
    """One published file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="path below the job's prefix")
    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=_DIGEST.pattern, description="lower-case hexadecimal")
    media_type: str

    @field_validator("path")
    @classmethod
    def _check_path(cls, path: str) -> str:
        try:
            return check_key(path)
        except PermanentError as error:
            raise ValueError(error.message) from error

    @property
    def is_content_named(self) -> bool:
        """Whether the name has at least twelve digits of the digest, so that no other content can have that name."""
        return any(self.sha256.startswith(digits) for digits in _NAMED_DIGEST.findall(self.path.rpartition("/")[2]))


class Manifest(BaseModel):
    """What a job published. Equal manifests have equal bytes: files are sorted by path, keys by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal["1"] = "1"
    job_id: str
    attempt: int = Field(ge=1, description="the attempt that uploaded the files")
    files: tuple[ManifestFile, ...]
    resolved_spec: dict[str, Any]
    report_sha256: str = Field(pattern=_DIGEST.pattern)

    @field_validator("files")
    @classmethod
    def _sort_files(cls, files: tuple[ManifestFile, ...]) -> tuple[ManifestFile, ...]:
        if len({file.path for file in files}) != len(files):
            raise ValueError("a path is listed twice")
        return tuple(sorted(files, key=lambda file: file.path))

    def to_bytes(self) -> bytes:
        """The canonical form, from which the digest is computed."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
        return (text + "\n").encode()

    def digest(self) -> str:
        """SHA-256 of the canonical form."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def parse_manifest(content: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        PermanentError: with reason INVALID_MANIFEST.
    """
    try:
        return Manifest.model_validate(parse_json(content, _LIMITS))
    except (UnreadableJsonError, ValidationError) as error:
        raise PermanentError(
            "the manifest cannot be read: it is damaged, or of another release", reason=INVALID_MANIFEST
        ) from error


def describe_file(file: LocalFile) -> ManifestFile:
    """The manifest's entry for a local file."""
    return ManifestFile(
        path=file.path,
        size_bytes=file.source.stat().st_size,
        sha256=file_digest(file.source),
        media_type=file.media_type,
    )
