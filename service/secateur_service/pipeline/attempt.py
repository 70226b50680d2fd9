"""A job's inputs (the attempt, the machine, the ports to the outside) and its result. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur_service.artifacts import ObjectStore
from secateur_service.evaluation.report import Report
from secateur_service.models.checkpoint import Checkpoint
from secateur_service.models.plan import OutputPlan
from secateur_service.pipeline.ledger import BlockLedger
from secateur_service.pipeline.observer import JobObserver
from secateur_service.records.result import JobResult, Shortage
from secateur_service.sources import Sources
from secateur_service.spec import PruneSpec


@dataclass(frozen=True)
class Attempt:
    """What to do.

    Attributes:
        spec: the resolved specification.
        job_id: the job's id in the report.
        number: the attempt's number in the manifest.
        prefix: prefix of the artifacts in the store; empty for the store's root.
        origins: prefixes of the jobs that this one is a retry of.
        shortages: memory that was insufficient in an earlier attempt.
        flops: floating-point operations that the job is expected to take; 0 where nobody has estimated them.
        plan: decides which parts of the dense model are written; by default all of it.
    """

    spec: PruneSpec
    job_id: str
    number: int
    prefix: str
    origins: tuple[str, ...] = ()
    shortages: frozenset[Shortage] = frozenset()
    flops: float = 0.0
    plan: Callable[[Checkpoint], OutputPlan] | None = None


@dataclass(frozen=True)
class Machine:
    """What to do it with.

    Attributes:
        workdir: private to the job; keeps what an interrupted attempt finished.
        device: `cpu`, `cuda` or `cuda:0`.
        threads: CPU threads of each process; 0 divides torch's default evenly over them.
        processes: how many run the job together.
        states_dir: what blocks made of evaluation text, for jobs with the same model and text; None to keep nothing.
        states_bytes: the most that it may hold.
    """

    workdir: Path
    device: str = "cpu"
    threads: int = 0
    processes: int = 1
    states_dir: Path | None = None
    states_bytes: int = 0


@dataclass(frozen=True)
class Ports:
    """The job's interfaces to the outside.

    Attributes:
        sources: where model and corpora come from.
        ledger: which blocks are finished.
        store: where the artifacts go.
        commit: records the manifest's digest in the job store; returns the digest in effect.
        observer: receives the progress and may stop the job.
        patience_seconds: how long to wait for a store that does not answer once there is nothing else to do; 0: not
            at all.
    """

    sources: Sources
    ledger: BlockLedger
    store: ObjectStore
    commit: Callable[[str], str]
    observer: JobObserver
    patience_seconds: float = 0.0


@dataclass(frozen=True)
class FinishedJob:
    """A published job.

    Attributes:
        seconds: wall seconds by kind of work.
        cpu_seconds: processor seconds by kind of work.
        peak_device_bytes: 0 on a CPU.
        dense_blocks: how often a block of the dense model ran on evaluation text, and how often that was not needed.
    """

    result: JobResult
    report: Report
    resumed_blocks: int
    seconds: dict[str, float]
    cpu_seconds: dict[str, float]
    peak_rss_bytes: int
    peak_device_bytes: int
    dense_blocks: Mapping[str, int]

    @property
    def figures(self) -> dict[str, Any]:
        """What the job used, for the service's metrics."""
        return {
            "dense_blocks": dict(self.dense_blocks),
            "calibration_tokens": sum(entry.tokens for entry in self.report.calibration),
            "peak_host_bytes": self.peak_rss_bytes,
            "peak_device_bytes": self.peak_device_bytes,
        }
