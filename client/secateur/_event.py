"""The events of a job's life, as `JobHandle.watch` yields them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from secateur._job import Failure, Job, JobStage, JobState, Progress


@dataclass(frozen=True)
class Event:
    """What all events have in common.

    Attributes:
        kind: Name of the kind of event, the same on the wire and in the command line's JSON.
        sequence: Number of the event, dense per job and counted from 1; for a snapshot, of the newest event it covers.
        time: When it was written (UTC).
        attempt: The attempt that wrote it; 0 before the first.
    """

    kind: ClassVar[str]

    sequence: int
    time: datetime
    attempt: int

    def __str__(self) -> str:
        return self.kind


@dataclass(frozen=True)
class SnapshotEvent(Event):
    """The whole job; the first event of a watch that does not resume.

    Attributes:
        job: The job after event number `sequence`.
    """

    kind = "snapshot"

    job: Job

    def __str__(self) -> str:
        return str(self.job)


@dataclass(frozen=True)
class StateEvent(Event):
    """The job changed its state.

    Attributes:
        state: The new state.
        message: Why, for people.
        failure: Set when the state is FAILED, or QUEUED again after an attempt that failed.
    """

    kind = "state"

    state: JobState
    message: str
    failure: Failure | None

    def __str__(self) -> str:
        detail = str(self.failure) if self.failure is not None else self.message
        return f"{self.state}: {detail}" if detail else str(self.state)


@dataclass(frozen=True)
class StageEvent(Event):
    """The running job entered a stage.

    Attributes:
        stage: The stage.
    """

    kind = "stage"

    stage: JobStage

    def __str__(self) -> str:
        return f"stage {self.stage}"


@dataclass(frozen=True)
class ProgressEvent(Event):
    """The job made progress.

    Attributes:
        progress: How far it is now.
    """

    kind = "progress"

    progress: Progress

    def __str__(self) -> str:
        return str(self.progress)


@dataclass(frozen=True)
class BlockEvent(Event):
    """A decoder block was pruned and stored durably.

    Attributes:
        index: The block's number, from 0.
        sparsity: Share of zeros over its pruned layers.
        seconds: Time it took.
        snr_db: Signal-to-noise ratio in dB of the pruned hidden states after it against the dense ones, per language.
    """

    kind = "block"

    index: int
    sparsity: float
    seconds: float
    snr_db: Mapping[str, float]

    def __str__(self) -> str:
        quality = "".join(f", {language} {value:.1f} dB" for language, value in sorted(self.snr_db.items()))
        return f"block {self.index} pruned: sparsity {self.sparsity:.4f}, {self.seconds:.1f} s{quality}"


@dataclass(frozen=True)
class LogEvent(Event):
    """A log line of the worker.

    Attributes:
        level: `debug`, `info`, `warning` or `error`.
        message: The line.
        fields: Structured fields of the line.
    """

    kind = "log"

    level: str
    message: str
    fields: Mapping[str, Any]

    def __str__(self) -> str:
        fields = "".join(f" {key}={value}" for key, value in sorted(self.fields.items()))
        return f"[{self.level}] {self.message}{fields}"


def ends_watch(event: Event) -> bool:
    """Whether an event is the last one: it reports a terminal state."""
    if isinstance(event, StateEvent):
        return event.state.is_terminal
    return isinstance(event, SnapshotEvent) and event.job.state.is_terminal
