"""Finds out how much of each axis to remove, for a budget of parameters: predicts, tries, and learns from it.

The costs along each axis come first: further tokens by the number of rows; the loss by the number of removed blocks
(`depth_search`); and what every projection loses by the number of heads and channels, in closed form from second
moments of the dense model. Then the plan is tried that is predicted to be the best: the streaming pass runs without
writing anything, on a part of the calibration text, and is scored on another. What was wrong with the prediction
changes the next one. Where no other plan promises more, those beside the best so far are tried. The best of all is
taken.

Everything that is found out is kept in the work directory, so that a later attempt goes on from there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from secateur_service import faults
from secateur_service.calibration.sampling import TextSample
from secateur_service.durable import write_durably
from secateur_service.errors import PermanentError
from secateur_service.models.plan_file import BudgetPlan, TriedPlan
from secateur_service.models.streaming import StreamedModel
from secateur_service.models.units import heads_of
from secateur_service.pipeline.depth_search import RemoveBlocks
from secateur_service.pipeline.divided import SurveyTask
from secateur_service.pipeline.ledger import FileLedger
from secateur_service.pipeline.meter import Meter
from secateur_service.pipeline.observer import JobObserver
from secateur_service.pipeline.pass_config import Output, PassConfig, Samples
from secateur_service.pipeline.processes import Processes
from secateur_service.pipeline.shards import Shards
from secateur_service.pipeline.shrinking import Shrinkage, Shrinker
from secateur_service.pipeline.stopwatch import Stopwatch
from secateur_service.pipeline.survey import Lost
from secateur_service.pruning.methods import Recipe
from secateur_service.pruning.structured.amounts import (
    Amounts,
    Costs,
    Growth,
    Prediction,
    candidates,
    choose_amounts,
    neighbours,
    worst,
)
from secateur_service.records.blocks import Axis
from secateur_service.sizing.budget_search import TRIALS, most_removed, multiple_of, sizes_of
from secateur_service.sizing.depth import SCORED_EVERY, depth_sequences
from secateur_service.sizing.estimate import trial_operations_of
from secateur_service.spec import BUDGET_AXES, PruneSpec, ShrinkSpec, VocabularySpec

_SLOPES = (3.0, 1.0)  # until they are measured: the growth of the loss for what is lost with heads, and with channels
_LEAST_LIMIT = 0.001
_FEW_TOKENS = 4096


@dataclass(frozen=True)
class Text:
    """The two parts of a job's calibration text: what is fitted is fitted to one, and scored on the other."""

    fitted: Samples
    scored: Samples

    @classmethod
    def of(cls, calibration: Samples, mix: Mapping[str, float], languages: Sequence[str]) -> Text:
        """As much of it as the search for blocks takes; its end is scored.

        So the two do not meet where the text is divided again into the tokens of a smaller vocabulary.
        """
        used = [name for name, weight in mix.items() if weight]
        length = next(iter(calibration.values())).tokens.shape[1]
        count = depth_sequences(length, len(used))
        fitted, scored = {}, {}
        for name in used:
            sample = calibration[name]
            end = min(count, len(sample.tokens))
            middle = max(1, end - max(1, end // SCORED_EVERY))
            fitted[name] = _part(sample, 0, middle)
            if name in languages:
                scored[name] = _part(sample, min(middle, end - 1), end)
        return cls(fitted, scored)


class BudgetSearch:
    """A search for the amounts of one job.

    Args:
        spec: the resolved specification, with a budget.
        model: the dense model.
        shrinker: knows the vocabulary.
        plan: turns amounts, and the blocks that go, into a plan.
        output: opens the output model of a plan, with its calibration and evaluation text.
        remove: looks for blocks to remove.
        processes: run what takes the model.
        text: as much calibration text as is used.
        observer: receives the log and may stop the job.
        stopwatch: is charged for the work.
        meter: counts the work.
        workdir: where what is found is kept.
        conditions: identifies everything that the numbers depend on.
    """

    def __init__(
        self,
        spec: PruneSpec,
        model: StreamedModel,
        shrinker: Shrinker,
        plan: Callable[[ShrinkSpec, Sequence[int]], Shrinkage],
        output: Callable[[Shrinkage, Samples, Samples], Output],
        remove: RemoveBlocks,
        processes: Processes,
        text: Text,
        observer: JobObserver,
        stopwatch: Stopwatch,
        meter: Meter,
        workdir: Path,
        conditions: str,
    ) -> None:
        assert spec.shrink is not None
        assert spec.shrink.budget is not None
        self._asked, self._budget = spec.shrink, spec.shrink.budget
        self._spec = spec
        self._mix = {name: weight for name, weight in spec.calibration.mix.items() if weight}
        self._model = model
        self._checkpoint = model.checkpoint
        self._shrinker = shrinker
        self._plan = plan
        self._output = output
        self._remove = remove
        self._processes = processes
        self._text = text
        self._observer = observer
        self._stopwatch = stopwatch
        self._meter = meter
        self._workdir = workdir
        self._path = workdir / "budget.json"
        self._known: dict[str, Any] = {"key": conditions}
        self._sizes = sizes_of(self._checkpoint)
        self._limits = limits_of(spec)
        self._trial_operations = trial_operations_of(self._checkpoint, spec)
        self._foreseen_trials = TRIALS + 1  # in the estimate, with the survey

    def choose(self) -> tuple[ShrinkSpec, tuple[int, ...], BudgetPlan]:
        """The amounts as a specification, the blocks that go in their order, and how they were found.

        Raises:
            PermanentError: nothing within the budget is left of the model.
        """
        self._recall()
        least = min(sample.text_tokens for sample in self._text.scored.values())
        if least < _FEW_TOKENS:
            message = "plans are told apart by few tokens; give calibration.samples or sequence_length more"
            self._observer.log("warning", message, tokens_of_a_language=least)
        parameters = int(self._budget.parameters * self._checkpoint.parameters)
        costs = self._costs(parameters)
        found = list(candidates(self._sizes, costs, parameters))
        if not found:
            raise self._too_small(costs)
        heads, channels = (dict.fromkeys(self._spec.kept_languages, slope) for slope in _SLOPES)
        prediction = Prediction(costs, (heads, channels), {})
        tried: list[TriedPlan] = []
        while len(tried) < TRIALS and (amounts := self._next(found, tried, prediction)):
            expected = prediction.growth(amounts)
            size = self._sizes.parameters(amounts, costs.order[: amounts.removed])
            self._log("trying a plan", amounts, expected, parameters=size)
            if amounts.rows < self._sizes.dense.rows and not prediction.vocabularies:
                only = replace(self._sizes.dense, rows=amounts.rows)
                prediction.vocabularies[amounts.rows] = self._measure(only, costs)
            measured = self._measure(amounts, costs)
            prediction.learn(amounts, measured)
            tried.append(TriedPlan(**asdict(amounts), parameters=size, predicted=expected, measured=measured))
            self._log("plan tried", amounts, measured)
        best = min(range(len(tried)), key=lambda at: (worst(tried[at].measured, self._limits), at))
        chosen = tried[best].amounts
        plan = BudgetPlan(parameters=self._budget.parameters, tried=tuple(tried), chosen=best)
        return self._asked_for(chosen), tuple(costs.order[: chosen.removed]), plan

    def _next(self, found: Sequence[Amounts], tried: Sequence[TriedPlan], prediction: Prediction) -> Amounts | None:
        """The plan to try next: the one that promises most, or one beside the best so far."""
        left = [amounts for amounts in found if amounts not in [plan.amounts for plan in tried]]
        if not left:
            return None
        first = choose_amounts(left, prediction, self._limits)
        if not tried:
            return first
        best = min(tried, key=lambda plan: worst(plan.measured, self._limits))
        if worst(prediction.growth(first), self._limits) < worst(best.measured, self._limits):
            return first
        near = [plan for plan in neighbours(found, best.amounts, prediction, self._limits) if plan in left]
        return choose_amounts(near or left, prediction, self._limits)

    def _costs(self, parameters: int) -> Costs:
        axes, nothing = self._budget.axes, dict.fromkeys(self._spec.kept_languages, 0.0)
        rows = {str(self._sizes.dense.rows): nothing}
        if "vocabulary" in axes:
            asked = self._asked.vocabulary or VocabularySpec()
            rows = self._remember("rows", lambda: self._shrinker.tokens_by_rows(asked))
        asked_axes: dict[Axis, bool] = {"attention": "kv_heads" in axes, "feed_forward": "feed_forward" in axes}
        narrow = [axis for axis, is_asked in asked_axes.items() if is_asked]
        lost = self._remember("lost", lambda: self._survey(narrow))
        removed = self._remember("removed", lambda: self._search_blocks(parameters) if "blocks" in axes else [])
        width, group = self._sizes.dense.channels, group_of(self._spec)
        heads, inputs = self._sizes.dense.heads, heads_of(self._checkpoint)
        fitting = {count for count in range(heads) if not count * inputs.queries * inputs.width % group} | {heads}
        return Costs(
            rows=_numbered(rows),
            order=[block for block, _ in removed],
            blocks=[nothing, *(growth for _, growth in removed)],
            heads=[_numbered(curve, fitting) for curve in lost.get("attention", [])],
            channels=[_numbered(curve) for curve in lost.get("feed_forward", [])],
            multiple=math.lcm(multiple_of(width), group),
        )

    def _survey(self, axes: Sequence[Axis]) -> Mapping[Axis, Lost]:
        self._begin_trial()
        with self._stopwatch.measure("prune"):
            task = SurveyTask(self._mix, self._text.fitted, self._spec.kept_languages, axes)
            return self._processes.together(task, lambda ranks: task.survey(self._model, self._meter, ranks).run(axes))

    def _begin_trial(self) -> None:
        """From here on, a trial is planned more precisely than it was foreseen."""
        if self._foreseen_trials:
            self._foreseen_trials -= 1
            self._meter.detail(self._trial_operations)
        self._meter.lap()

    def _search_blocks(self, parameters: int) -> list[tuple[int, Growth]]:
        """The blocks that may be removed in their order, with the growth without them."""
        count = most_removed(self._checkpoint, parameters)
        if not count:
            return []
        with self._stopwatch.measure("prune"):
            found = self._remove(count, (), lambda growth: worst(growth, self._limits) > 1)
        return [(removal.block, removal.growth) for removal in found.removals]

    def _measure(self, amounts: Amounts, costs: Costs) -> dict[str, float]:
        """By how much the loss for each byte grows with these amounts."""
        name = "/".join(map(str, asdict(amounts).values()))
        return dict(self._remember(name, lambda: self._try(amounts, tuple(costs.order[: amounts.removed]))))

    def _try(self, amounts: Amounts, removed: tuple[int, ...]) -> dict[str, float]:
        """Run the pass without writing anything."""
        self._begin_trial()
        shrinkage = self._plan(self._asked_for(amounts), removed)
        config = PassConfig(
            recipe=Recipe.of("magnitude"),
            targets={},
            order=self._spec.order,
            mix=self._mix,
            calibration=self._text.fitted,
            evaluation=self._text.scored,
            shards=Shards(self._workdir / "tried"),
            layer_snr=False,
            output=self._output(shrinkage, self._text.fitted, self._text.scored),
            writes=False,
        )
        ledger = FileLedger(self._workdir / "tried.json")
        with self._meter.trial():
            found = self._processes.run_pass(config, ledger, self._meter)
        growth = {}
        for language, dense in found.dense.items():
            after = found.pruned[language]
            growth[language] = (after.nats / after.bytes) / (dense.nats / dense.bytes) - 1
        return growth

    def _asked_for(self, amounts: Amounts) -> ShrinkSpec:
        """These amounts as a specification."""
        dense, checkpoint = self._sizes.dense, self._checkpoint
        parts: dict[str, Any] = {"vocabulary": None, "feed_forward": None, "kv_heads": None, "blocks": None}
        if amounts.rows < dense.rows:
            given = self._asked.vocabulary.model_dump() if self._asked.vocabulary else {}
            parts["vocabulary"] = {**given, "rows": amounts.rows}
        if amounts.channels < dense.channels:
            parts["feed_forward"] = {"channels": amounts.channels}
        if amounts.heads < dense.heads:
            parts["kv_heads"] = {"remove": heads_of(checkpoint).keys - amounts.heads}
        if amounts.removed:
            parts["blocks"] = {"remove": amounts.removed}
        if not any(parts.values()):  # the budget leaves the model as it is
            return self._asked.model_copy(update={"budget": None})
        return ShrinkSpec(**parts, keep_languages=self._asked.keep_languages)

    def _too_small(self, costs: Costs) -> PermanentError:
        everything = candidates(self._sizes, costs, self._checkpoint.parameters)
        smallest = (replace(amounts, rows=min(costs.rows)) for amounts in everything)
        least = min(self._sizes.parameters(amounts, costs.order[: amounts.removed]) for amounts in smallest)
        share = math.ceil(1000 * least / self._checkpoint.parameters) / 1000
        remedies = ["raise it"] if share < 1 else []
        if "blocks" in self._budget.axes and self._spec.limits and self._spec.limits.languages:
            remedies.append("raise limits.languages, by which blocks stay")
        if set(self._budget.axes) < set(BUDGET_AXES):
            remedies.append("allow more axes")
        return PermanentError(
            f"shrink.budget.parameters: removing {', '.join(self._budget.axes)} leaves at least {share:.3f} of this "
            f"model's parameters, which is more than {self._budget.parameters}; {', or '.join(remedies)}",
            reason="BUDGET_TOO_SMALL",
        )

    def _log(self, message: str, amounts: Amounts, growth: Growth, **figures: int) -> None:
        told = {f"bits_per_byte_growth_{language}": round(share, 6) for language, share in growth.items()}
        self._observer.log("info", message, **asdict(amounts), **figures, **told)

    def _recall(self) -> None:
        if self._path.exists():
            found = json.loads(self._path.read_bytes())
            if found["key"] == self._known["key"]:
                self._known = found

    def _remember(self, name: str, find: Callable[[], Any]) -> Any:
        """What is known under a name; otherwise it is found out, and kept."""
        if name not in self._known:
            self._known[name] = find()
            write_durably(self._path, json.dumps(self._known).encode())
            faults.reached("budget.found")
        return self._known[name]


def group_of(spec: PruneSpec) -> int:
    """What the inputs of every layer have to be a multiple of, so that the patterns of the pruning divide them."""
    if spec.pruning is None:
        return 1
    patterns = [spec.pruning.kept_of_group, *(override.kept_of_group for override in spec.pruning.overrides)]
    return math.lcm(*(pattern[1] for pattern in patterns if pattern))


def limits_of(spec: PruneSpec) -> dict[str, float]:
    """How much each kept language may lose; one without a limit may lose as much as the one that may lose most."""
    given = {entry.language: entry.growth for entry in (spec.limits.languages if spec.limits else ())}
    most = max(given.values(), default=1.0)
    return {language: max(given.get(language, most), _LEAST_LIMIT) for language in spec.kept_languages}


def _numbered(known: Mapping[Any, Growth], only: Collection[int] | None = None) -> dict[int, Growth]:
    """With numbers as keys, which JSON does not have; perhaps only some of them."""
    return {int(count): growth for count, growth in known.items() if only is None or int(count) in only}


def _part(sample: TextSample, start: int, stop: int) -> TextSample:
    """Some of a sample's sequences, one after the other."""
    passages = sample.passages
    return replace(
        sample,
        tokens=sample.tokens[start:stop],
        token_bytes=sample.token_bytes[start:stop],
        is_text=sample.is_text[start:stop],
        document_of=None if sample.document_of is None else sample.document_of[start:stop],
        passages=passages and replace(passages, spans=passages.spans[start:stop]),
    )
