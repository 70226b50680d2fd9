"""Decides, with the dense model at hand, what is removed of it: the amounts for a budget, and the blocks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from secateur_service.models.plan import OutputPlan
from secateur_service.models.streaming import StreamedModel
from secateur_service.pipeline.budget_search import BudgetSearch, Text
from secateur_service.pipeline.depth_search import Depth, TooMuch
from secateur_service.pipeline.divided import DepthTask
from secateur_service.pipeline.expected_tokens import expected_tokens
from secateur_service.pipeline.meter import Meter
from secateur_service.pipeline.observer import JobObserver
from secateur_service.pipeline.pass_config import Output, Samples
from secateur_service.pipeline.processes import Processes
from secateur_service.pipeline.shrinking import Shrinkage, Shrinker
from secateur_service.pipeline.stopwatch import Stopwatch
from secateur_service.spec import PruneSpec, ShrinkSpec


@dataclass(frozen=True)
class Tools:
    """What a job can do for its planner.

    Attributes:
        output: opens the output model of a plan, with calibration and evaluation text in its tokens.
        conditions: under which numbers are valid that are found for a plan.
        flops: how many operations a specification takes.
    """

    output: Callable[[Shrinkage, Samples, Samples], Output]
    conditions: Callable[[OutputPlan], dict[str, Any]]
    flops: Callable[[PruneSpec], float]


class Planner:
    """Decides what a job removes.

    Args:
        spec: the resolved specification.
        shrinker: turns amounts into plans.
        model: the dense model.
        calibration: calibration text by language.
        processes: run what takes the model.
        tools: what the job can do.
        observer: receives the log and may stop the job.
        stopwatch: is charged for the work.
        meter: counts the work.
        workdir: where the outcome is kept.
    """

    def __init__(
        self,
        spec: PruneSpec,
        shrinker: Shrinker,
        model: StreamedModel,
        calibration: Samples,
        processes: Processes,
        tools: Tools,
        observer: JobObserver,
        stopwatch: Stopwatch,
        meter: Meter,
        workdir: Path,
    ) -> None:
        self._spec = spec
        self._shrinker = shrinker
        self._model = model
        self._calibration = calibration
        self._processes = processes
        self._tools = tools
        self._observer = observer
        self._stopwatch = stopwatch
        self._meter = meter
        self._workdir = workdir

    def decide(self, shrinkage: Shrinkage) -> Shrinkage:
        """Everything that is decided before the pass.

        Args:
            shrinkage: what was decided without the model.

        Raises:
            PermanentError: nothing within the budget is left of the model.
        """
        asked, order = self._spec.shrink, self._shrinker.order
        if asked is None:
            return shrinkage
        languages = self._spec.kept_languages
        self._shrinker.expected = partial(expected_tokens, self._model, self._calibration, languages, self._meter)
        if asked.needs_model and asked.budget is None:
            with self._stopwatch.measure("sample"):
                shrinkage = self._shrinker.shrink(asked)
        if asked.budget is not None:
            search = self._budget_search(shrinkage)
            asked, order, found = search.choose()
            shrinkage = self._shrinker.shrink(asked)
            shrinkage = replace(shrinkage, file=shrinkage.file.model_copy(update={"budget": found}))
        count = asked.blocks.remove if asked.blocks else len(order)
        left = asked.model_copy(update={"blocks": None}) if order else asked  # a search that is over does not count
        self._meter.foresee(self._tools.flops(self._spec.model_copy(update={"shrink": left})))
        with self._stopwatch.measure("prune"):
            return self._without_blocks(shrinkage, asked, count, order)

    def _budget_search(self, shrinkage: Shrinkage) -> BudgetSearch:
        spec = self._spec
        return BudgetSearch(
            spec,
            self._model,
            self._shrinker,
            self._planned,
            self._tools.output,
            self._remove,
            self._processes,
            Text.of(self._calibration, spec.calibration.mix, spec.kept_languages),
            self._observer,
            self._stopwatch,
            self._meter,
            self._workdir,
            self._digest(shrinkage.plan, spec.shrink),
        )

    def _planned(self, asked: ShrinkSpec, order: Sequence[int]) -> Shrinkage:
        """The plan of these amounts, without the blocks that go."""
        return self._without_blocks(self._shrinker.shrink(asked), asked, len(order), order)

    def _without_blocks(self, shrinkage: Shrinkage, asked: ShrinkSpec, count: int, order: Sequence[int]) -> Shrinkage:
        conditions = self._digest(shrinkage.plan, asked)
        return self._shrinker.remove_blocks(shrinkage, count, order, self._remove, conditions)

    def _remove(self, count: int, order: Sequence[int] = (), too_much: TooMuch = lambda _: False) -> Depth:
        spec = self._spec
        task = DepthTask(spec.calibration.mix, spec.kept_languages, self._calibration, count, order)
        return self._processes.together(
            task, lambda ranks: task.search(self._model, self._meter, ranks).remove(count, order, too_much)
        )

    def _digest(self, plan: OutputPlan, asked: ShrinkSpec | None) -> str:
        """Identifies everything that numbers depend on which are found for a plan."""
        named = asked and asked.model_dump(mode="json")
        content = json.dumps([self._tools.conditions(plan), named], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()
