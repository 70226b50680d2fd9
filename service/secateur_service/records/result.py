"""What a job is expected to cost, what it produced, and what was removed of it: plain data."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Shortage(enum.StrEnum):
    """Memory that did not suffice; a job spares it from then on, at the price of time."""

    HOST = "host"  # hidden states lie in files
    DEVICE = "device"  # they leave the device between two blocks, and batches are small


@dataclass(frozen=True)
class Estimate:
    """Expected cost of a job, in bytes and floating-point operations."""

    checkpoint_bytes: int
    peak_host_bytes: int
    peak_device_bytes: int
    disk_bytes: int
    flops: float


@dataclass(frozen=True)
class LanguageResult:
    """What pruning cost one evaluation language."""

    language: str
    dense_perplexity: float
    pruned_perplexity: float
    dense_bits_per_byte: float
    pruned_bits_per_byte: float


@dataclass(frozen=True)
class JobResult:
    """What a job produced. The manifest's digest is the authority on what is published."""

    manifest_uri: str
    manifest_sha256: str
    sparsity: float
    languages: tuple[LanguageResult, ...]


@dataclass
class Removed:
    """What one round removed.

    Attributes:
        leftovers: objects and unfinished uploads.
        jobs: jobs that the store has forgotten.
    """

    leftovers: int = 0
    jobs: int = 0
