"""The processes of a job: whatever several of them can do together, they do; otherwise one does it alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from secateur_service.models.streaming import StreamedModel
from secateur_service.pipeline.divided import PassTask, Task, read_together
from secateur_service.pipeline.ledger import BlockLedger
from secateur_service.pipeline.meter import Meter
from secateur_service.pipeline.observer import JobObserver
from secateur_service.pipeline.pass_config import PassConfig
from secateur_service.pipeline.stopwatch import Stopwatch
from secateur_service.pipeline.streaming_pass import PassResult, run_pass
from secateur_service.pipeline.team import Team, Usage, obstacle
from secateur_service.pruning.ranks import ALONE, Ranks

_Found = TypeVar("_Found")


class Processes:
    """In a context; the helpers start with the first task, and none is left at its end.

    Args:
        count: how many there may be.
        model: the dense model.
        observer: receives the log and may stop the job.
        stopwatch: is charged for the helpers.
        workdir: private to the job.

    Attributes:
        count: how many there are; one where something hinders them.

    Raises:
        TransientError: a helper did not start, was lost, or hangs.
    """

    def __init__(
        self, count: int, model: StreamedModel, observer: JobObserver, stopwatch: Stopwatch, workdir: Path
    ) -> None:
        hindered = obstacle(model) if count > 1 else None
        if hindered:
            observer.log("warning", f"the job runs as one process: {hindered}", asked_processes=count)
        self.count = 1 if hindered else count
        self._used: list[Usage] = []
        self._model = model
        self._observer = observer
        self._stopwatch = stopwatch
        self._workdir = workdir
        self._team: Team | None = None
        self._stack = contextlib.ExitStack()
        self._charged = 0.0

    def __enter__(self) -> Self:
        self._stack.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def together(self, task: Task, run: Callable[[Ranks], _Found]) -> _Found:
        """Have the helpers do their part of a task.

        Args:
            task: what is done.
            run: does the first rank's part; its result is that of the task.
        """
        if self.count == 1:
            return run(ALONE)
        if self._team is None:
            self._observer.log("info", "the other processes of the job start", processes=self.count)
            self._team = self._stack.enter_context(Team(self.count, self._observer.check, self._workdir))
        with self._team.helping(self._model, task) as ranks:
            found = run(ranks)
        self._used = self._team.used
        total = sum(each.start_cpu_seconds + each.cpu_seconds for each in self._used[1:])
        self._stopwatch.charge_helpers(total - self._charged)
        self._charged = total
        return found

    def run_pass(self, config: PassConfig, ledger: BlockLedger, meter: Meter) -> PassResult:
        """Run a pass over the model; the arguments are those of `streaming_pass.run_pass`."""
        if self.count > 1:  # states that are shared with other jobs are those of all text
            config = replace(config, shared=None)

        def run(ranks: Ranks) -> PassResult:
            with read_together(config.output if ranks.count > 1 else None, self._model):
                return run_pass(self._model, config, ledger, self._observer, self._stopwatch, meter, ranks)

        found = self.together(PassTask.of(config), run)
        if self.count > 1 and config.writes:
            self._observer.log(
                "info",
                "several processes have run the pass",
                processes=self.count,
                cpu_seconds=[round(each.cpu_seconds, 1) for each in self._used],
                bytes_read=[each.bytes_read for each in self._used],
            )
        return found
