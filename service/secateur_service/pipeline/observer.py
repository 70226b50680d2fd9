"""How a running job reports its progress, and how it is stopped.

The pipeline knows neither store nor network: it reports through a `JobObserver` and asks it, between pieces of work,
whether to continue. Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from secateur_service.records.blocks import BlockRecord
from secateur_service.records.progress import Progress, Stage


class JobObserver(Protocol):
    """Receives a job's progress. Implementations write events, draw a progress bar or do nothing."""

    def stage(self, stage: Stage) -> None:
        """The job entered a stage."""

    def progress(self, progress: Progress) -> None:
        """The job made progress; called often, so implementations should coalesce."""

    def block(self, record: BlockRecord) -> None:
        """A block is finished and durable; called after it is in the ledger."""

    def log(self, level: str, message: str, **fields: Any) -> None:
        """One log line for the job's owner; `level` is debug, info, warning or error."""

    def check(self) -> None:
        """Return to let the job continue.

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
        """Let the job continue."""
