"""What a running job tells the world, and how the world stops it.

The pipeline knows neither store nor network: it reports through a `JobObserver` and asks it, between two pieces of
work, whether to go on. Nothing here imports torch.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


class Stage(enum.StrEnum):
    """What a running job does at the moment; the values are the names of the protocol's stages."""

    FETCHING = "FETCHING"
    SAMPLING = "SAMPLING"
    PRUNING = "PRUNING"
    PACKAGING = "PACKAGING"
    PUBLISHING = "PUBLISHING"


@dataclass(frozen=True)
class Progress:
    """How far a job is: blocks, and the share of the whole job from 0 to 1."""

    blocks_done: int
    blocks_total: int
    fraction: float
    eta_seconds: float | None = None


@dataclass(frozen=True)
class LayerRecord:
    """One layer that pruning saw.

    Attributes:
        name: of its weight in the checkpoint.
        shape: (out, in).
        zeros: exact count.
        notes: what was unusual.
        snr_db: 10·log10(‖XWᵀ‖² / ‖X(W − Ŵ)ᵀ‖²) per calibration language, on inputs that the layer saw.
        snr_tokens: number of these inputs, per calibration language.
        weights: mixing weight of each language, where they were searched for.
    """

    name: str
    shape: tuple[int, int]
    zeros: int
    notes: tuple[str, ...] = ()
    snr_db: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    snr_tokens: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class BlockRecord:
    """A finished decoder block: the ledger's entry.

    `shard` is the file name below `checkpoint/`, which carries the content's digest; `tensors` names what it holds.
    `snr_db` is 10·log10(‖h‖² / ‖h − ĥ‖²) of the evaluation states after the block, per language; `fingerprint` the
    digest of all that its bytes depend on.
    """

    index: int
    shard: str
    sha256: str
    size_bytes: int
    tensors: tuple[str, ...]
    layers: tuple[LayerRecord, ...]
    snr_db: Mapping[str, float]
    seconds: float
    fingerprint: str = ""

    @property
    def sparsity(self) -> float:
        """Share of zeros over the block's pruned layers."""
        total = sum(layer.shape[0] * layer.shape[1] for layer in self.layers)
        return sum(layer.zeros for layer in self.layers) / total


class JobObserver(Protocol):
    """Receives a job's progress. Implementations write events, draw a progress bar or do nothing."""

    def stage(self, stage: Stage) -> None:
        """The job entered a stage."""

    def progress(self, progress: Progress) -> None:
        """The job got on; called often, so that implementations coalesce."""

    def block(self, record: BlockRecord) -> None:
        """A block is finished and durable; called after the ledger holds it."""

    def log(self, level: str, message: str, **fields: Any) -> None:
        """One log line for the job's owner; `level` is debug, info, warning or error."""

    def check(self) -> None:
        """Return to go on.

        Raises:
            CancelledError, PreemptedError, FencedError: stop now, keep what is finished.
        """


@dataclass
class RecordingObserver:
    """Keeps everything in memory and never stops the job; for notebooks and tests."""

    stages: list[Stage] = field(default_factory=list)
    history: list[Progress] = field(default_factory=list)
    blocks: list[BlockRecord] = field(default_factory=list)
    lines: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    def stage(self, stage: Stage) -> None:
        """Record the stage."""
        self.stages.append(stage)

    def progress(self, progress: Progress) -> None:
        """Record the progress."""
        self.history.append(progress)

    def block(self, record: BlockRecord) -> None:
        """Record the block."""
        self.blocks.append(record)

    def log(self, level: str, message: str, **fields: Any) -> None:
        """Record the line."""
        self.lines.append((level, message, fields))

    def check(self) -> None:
        """Go on."""
