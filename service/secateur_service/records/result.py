"""Plain data: what a job is expected to cost, what it produced, and what cleaning up removed."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BeforeValidator

LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
"""Reason of a failure: the result costs a language more than it may. Its report and plan are published all the same."""

MANIFEST_DIGEST = "manifest_sha256"
"""Detail of that failure: the digest of the manifest that names them."""

MODEL_DIGEST = "model_digest"
"""Detail of that failure: the digest of the dense model, as in the result of a job that succeeded."""

PERPLEXITY_GROWTH = "perplexity_growth_"
"""What the names of further details of it begin with, before a language: its pruned over its dense perplexity."""


class Shortage(enum.StrEnum):
    """A kind of memory that was insufficient; from then on the job saves it, at the cost of time."""

    HOST = "host"  # hidden states are kept in files
    DEVICE = "device"  # they leave the device between two blocks, and batches are small


class Bound(enum.StrEnum):
    """What takes longest in a job, and so bounds it: the others go on beside it."""

    COMPUTING = "COMPUTING"
    READING = "READING"
    WRITING = "WRITING"


_BOUNDS = frozenset(Bound)


def _known_bounds(bounds: Any) -> Any:
    """Without those that only a newer release knows."""
    return {name: bound for name, bound in bounds.items() if isinstance(bound, str) and bound in _BOUNDS}


@dataclass(frozen=True)
class Available:
    """What a job can have.

    Attributes:
        host_bytes: memory.
        device_bytes: memory of the accelerator; None for a CPU, or if it is unknown.
        disk_bytes: in its work directory.
    """

    host_bytes: int
    device_bytes: int | None
    disk_bytes: int


@dataclass(frozen=True)
class Estimate:
    """Expected cost of a job, in bytes and floating-point operations, and the size of its result.

    Attributes:
        parameters: those of the dense model; 0 if unknown, as in estimates of older releases.
        output_parameters: those of the output model, at most: how many rows of the vocabulary go is only known in
            advance if their number was given.
        output_bytes: all its tensors, at most.
        seconds: expected time by class of device, see `sizing.durations`; without waiting and without fetching.
        bounds: what takes most of that time, by the same class of device.
        slot: what a slot had when the job was submitted; None where that is unknown.
        warnings: what may happen to the job, each with the field that it is about.
        growth_margin: half the usual width of the interval of a language's growth of perplexity, as a share of it, see
            `sizing.margin`; 0 if nothing is evaluated, and in estimates of older releases.
    """

    checkpoint_bytes: int
    peak_host_bytes: int
    peak_device_bytes: int
    disk_bytes: int
    flops: float
    parameters: int = 0
    output_parameters: int = 0
    output_bytes: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    bounds: Annotated[Mapping[str, Bound], BeforeValidator(_known_bounds)] = field(default_factory=dict)
    slot: Available | None = None
    warnings: tuple[str, ...] = ()
    growth_margin: float = 0.0


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
    """What a job produced. The manifest's digest defines what is published.

    Attributes:
        parameters: those of the output model; 0 if unknown, as in results of older releases.
        dense_parameters: those of the dense model.
        model_digest: SHA-256 over the dense model's configuration and weights; empty in results of older releases.
    """

    manifest_uri: str
    manifest_sha256: str
    sparsity: float
    languages: tuple[LanguageResult, ...]
    parameters: int = 0
    dense_parameters: int = 0
    model_digest: str = ""


@dataclass
class Removed:
    """What one round of cleaning up removed.

    Attributes:
        leftovers: objects and unfinished uploads.
        jobs: jobs deleted from the store.
    """

    leftovers: int = 0
    jobs: int = 0
