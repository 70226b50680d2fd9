"""What the service knows about a job, as small immutable values."""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from secateur._report import Report
from secateur._text import fetched_text, left_text

_PERPLEXITY_GROWTH = "perplexity_growth_"  # then a language: details of the failure of a job that exceeded a limit

NAME_PREFIX = "pruneJobs/"
JOB_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
"""What every id looks like, and the beginning of one."""


class JobState(enum.StrEnum):
    """The state of a job."""

    UNSPECIFIED = "UNSPECIFIED"
    """A newer service's state that this SDK does not know."""
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    """Cancellation was requested and the worker has not stopped yet."""
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_terminal(self) -> bool:
        """Whether the job has ended; it will never change again."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class JobStage(enum.StrEnum):
    """What a running job is doing."""

    UNSPECIFIED = "UNSPECIFIED"
    """Not running, or a newer service's stage that this SDK does not know."""
    FETCHING = "FETCHING"
    SAMPLING = "SAMPLING"
    PRUNING = "PRUNING"
    """The streaming pass: calibrates, prunes and evaluates block by block."""
    PACKAGING = "PACKAGING"
    PUBLISHING = "PUBLISHING"


@dataclass(frozen=True)
class Progress:
    """How far a job is.

    Attributes:
        blocks_done: Finished decoder blocks.
        blocks_total: Decoder blocks of the result; 0 until it is decided which they are.
        fraction: Share of the whole job that is done, from 0 to 1.
        eta_seconds: Expected time until the end; None while unknown.
        bytes_done: Bytes that were fetched of what is being fetched now; 0 while nothing is.
        bytes_total: Its size; also 0 where text is read from the hub until there is enough of it.
    """

    blocks_done: int
    blocks_total: int
    fraction: float
    eta_seconds: float | None = None
    bytes_done: int = 0
    bytes_total: int = 0

    def __str__(self) -> str:
        text = f"{self.fraction:.0%}"
        if self.blocks_total:
            text += f", {self.blocks_done} of {self.blocks_total} blocks"
        if self.bytes_done or self.bytes_total:
            text += f", {fetched_text(self.bytes_done, self.bytes_total)} fetched"
        if self.eta_seconds is not None:
            text += f", {'about ' if self.eta_seconds >= 1 else ''}{left_text(self.eta_seconds)}"
        return text


@dataclass(frozen=True)
class Failure:
    """Why a job, or an attempt to run it, failed.

    Attributes:
        reason: Machine-readable and stable, UPPER_SNAKE_CASE.
        message: For people: what happened and what to do.
        retryable: Whether the same job may succeed if submitted again unchanged.
        details: Further details, by name.
    """

    reason: str
    message: str
    retryable: bool
    details: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


@dataclass(frozen=True)
class Slot:
    """What the slots of the service had for a job.

    Attributes:
        host_bytes: Main memory.
        device_bytes: Memory of the largest accelerator; 0 on a CPU, or if it is unknown.
        disk_bytes: Free space in the work directory.
    """

    host_bytes: int
    device_bytes: int
    disk_bytes: int


class Bound(enum.StrEnum):
    """What takes longest in a job, and so bounds it: the others go on beside it."""

    UNSPECIFIED = "UNSPECIFIED"
    """Something that this SDK does not know, named by a newer service."""
    COMPUTING = "COMPUTING"
    READING = "READING"
    """Weights from the disk, or from the network where that is slower."""
    WRITING = "WRITING"


@dataclass(frozen=True)
class Estimate:
    """What a job is expected to cost.

    Attributes:
        checkpoint_bytes: Size of the checkpoint to read.
        peak_host_bytes: Main memory.
        peak_device_bytes: Accelerator memory; 0 if the job runs on the CPU.
        disk_bytes: Space in the work directory.
        flops: Floating-point operations.
        parameters: Parameters of the dense model; 0 if the service does not say.
        output_parameters: Parameters of the result, at most.
        output_bytes: Size of its tensors, at most.
        seconds: Expected time by class of device, such as `one NVIDIA H100`: right within a factor of about 2, more
            for jobs of less than a minute. Waiting and fetching the model are not in it.
        slot: What a slot had when the job was checked; None if the service does not say.
        warnings: What may happen to the job, each beginning with the field that it is about.
        bounds: What takes most of the time, by the same class of device; empty if the service does not say.
        growth_margin: How narrowly the growth of perplexity of a language is usually known: half the width of its 95 %
            confidence interval, as a share of the growth, for text of short documents and growth below 1.5 times; with
            documents of thousands of tokens it is wider. 0 if the service does not say, or nothing is evaluated.
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
    slot: Slot | None = None
    warnings: tuple[str, ...] = ()
    bounds: Mapping[str, Bound] = field(default_factory=dict)
    growth_margin: float = 0.0


@dataclass(frozen=True)
class LanguageResult:
    """What pruning cost one evaluation language.

    Attributes:
        language: BCP 47 tag.
        dense_perplexity: Perplexity per token of the original model.
        pruned_perplexity: Perplexity per token of the pruned model.
        dense_bits_per_byte: Bits per byte of text, comparable between tokenizers, of the original model.
        pruned_bits_per_byte: Bits per byte of text of the pruned model.
    """

    language: str
    dense_perplexity: float
    pruned_perplexity: float
    dense_bits_per_byte: float
    pruned_bits_per_byte: float

    @property
    def perplexity_ratio(self) -> float:
        """Pruned over dense perplexity: 1 if nothing was lost; NaN if the dense one is zero."""
        return self.pruned_perplexity / self.dense_perplexity if self.dense_perplexity else float("nan")


@dataclass(frozen=True)
class PublishedResult:
    """What a job produced.

    Attributes:
        manifest_uri: Location of the manifest; nothing is published without it.
        manifest_sha256: Its SHA-256, lower-case hexadecimal.
        sparsity: Share of zeros over the pruned layers.
        languages: What it cost each evaluation language, by BCP 47 tag.
        parameters: Parameters of the model that was written; 0 if an older release made the result.
        dense_parameters: Parameters of the dense model; 0 likewise.
    """

    manifest_uri: str
    manifest_sha256: str
    sparsity: float
    languages: Mapping[str, LanguageResult]
    parameters: int
    dense_parameters: int

    @property
    def growth(self) -> Mapping[str, float]:
        """Pruned over dense perplexity of each evaluation language: 1 if nothing was lost."""
        return {language: entry.perplexity_ratio for language, entry in self.languages.items()}

    def __str__(self) -> str:
        less = 1 - self.parameters / self.dense_parameters if self.dense_parameters else 0.0
        amounts = [f"sparsity {self.sparsity:.4f}"] if self.sparsity or not less else []
        amounts += [f"{less:.1%} fewer parameters"] if less else []
        losses = [f"{entry.language} ×{entry.perplexity_ratio:.3f}" for entry in self.languages.values()]
        return f"{', '.join(amounts)}; perplexity {', '.join(losses)}"


@dataclass(frozen=True)
class Job:
    """A job as it was when the service answered.

    Attributes:
        name: Resource name, `pruneJobs/{id}`.
        uid: Unique for ever, even after a job of the same name was deleted.
        state: Its state.
        stage: What it is doing now.
        progress: How far it is; None before it first ran.
        attempt: Number of the current attempt, counted from 1; 0 before the first.
        max_attempts: Attempts before the job is given up.
        failure: Why it failed; set when the state is FAILED.
        result: What it produced; set when the state is SUCCEEDED.
        estimate: What it is expected to cost.
        labels: The caller's own labels.
        spec: The specification as it was submitted, in the shape of its YAML form.
        resolved_spec: The specification that runs, defaults filled in.
        last_sequence: Number of its newest event; `watch` resumes after it.
        create_time: When it was accepted (UTC).
        start_time: When its first attempt started.
        end_time: When it reached a terminal state.
        retry_of: Name of the job that it is a retry of.
        waiting: Why nobody can run it at the moment: what it needs, and what the largest agent has; None unless it is
            queued and fits no agent that the service has seen in the last ten minutes.
    """

    name: str
    uid: str
    state: JobState
    stage: JobStage
    progress: Progress | None
    attempt: int
    max_attempts: int
    failure: Failure | None
    result: PublishedResult | None
    estimate: Estimate | None
    labels: Mapping[str, str]
    spec: Mapping[str, Any]
    resolved_spec: Mapping[str, Any]
    last_sequence: int
    create_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    retry_of: str | None = None
    waiting: str | None = None

    def __str__(self) -> str:
        details = [] if self.stage is JobStage.UNSPECIFIED else [str(self.stage)]
        if self.progress is not None and not self.state.is_terminal:
            details.append(str(self.progress))
        text = ", ".join([f"{self.name} is {self.state}", *details])
        if self.waiting is not None:
            return f"{text}, waits: {self.waiting}"
        return f"{text}: {self.failure}" if self.failure is not None else text

    @property
    def id(self) -> str:
        """The name without its prefix."""
        return self.name.removeprefix(NAME_PREFIX)

    @property
    def duration_seconds(self) -> float | None:
        """From the start of the first attempt to the end; None before the end, or if it never started."""
        if self.start_time is None or self.end_time is None:
            return None
        return (self.end_time - self.start_time).total_seconds()

    @property
    def mix(self) -> Mapping[str, float]:
        """The weight of each language that the job calibrates on, by BCP 47 tag."""
        weights = self.resolved_spec.get("calibration", {}).get("languages", {})
        if isinstance(weights, Mapping):
            return {language: float(weight) for language, weight in weights.items()}
        return {entry["language"]: float(entry.get("weight", 1)) for entry in weights}

    @property
    def growth(self) -> Mapping[str, float]:
        """Pruned over dense perplexity of each evaluation language, also of a job that exceeded a limit."""
        if self.result is not None:
            return self.result.growth
        details = {} if self.failure is None else self.failure.details
        return {
            name.removeprefix(_PERPLEXITY_GROWTH): float(text)
            for name, text in details.items()
            if name.startswith(_PERPLEXITY_GROWTH)
        }

    @property
    def worst_growth(self) -> tuple[str, float] | None:
        """The language of the mix that lost most, and its growth of perplexity; None without figures.

        Languages outside the mix count where none of the mix was evaluated.
        """
        known = {language: each for language, each in self.growth.items() if not math.isnan(each)}
        of_mix = {language: each for language, each in known.items() if self.mix.get(language)}
        return max((of_mix or known).items(), key=lambda entry: entry[1], default=None)


@dataclass(frozen=True)
class JobResult(PublishedResult):
    """The result of a job that succeeded, with its full report.

    Attributes:
        job: The job.
        report: report.json as plain data, whose JSON Schema is published with the service, with typed figures.
    """

    job: Job
    report: Report


@dataclass(frozen=True)
class Plan:
    """What a specification would do: the answer to a dry run.

    Attributes:
        resolved_spec: The specification that would run, defaults filled in.
        estimate: What it would cost.
    """

    resolved_spec: Mapping[str, Any]
    estimate: Estimate


def job_name(name: str) -> str:
    """The resource name of a job, given its name or just its id."""
    return name if "/" in name else NAME_PREFIX + name
