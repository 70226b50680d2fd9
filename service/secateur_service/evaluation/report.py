"""The report of a job, `report.json`: what was requested, what was kept and what was lost, per language.

It contains no times, durations or machine names, so that two attempts at one job write the same bytes; those are in
`provenance.json`. Its parts define the schema; the published schema is generated from them:

    python -m secateur_service.evaluation.report > docs/report.schema.json
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import Field

from secateur_service.evaluation.block_parts import BlockPart, BudgetPart, RemovedBlockPart, SparsityPart
from secateur_service.evaluation.continuations import ContinuedLanguage
from secateur_service.evaluation.decision import DecisionPart, decide
from secateur_service.evaluation.headline import HeadlinePart, headline_of
from secateur_service.evaluation.language_parts import AffinityPart, LanguageNeuronsPart
from secateur_service.evaluation.parts import (
    CalibrationLanguage,
    EvaluationLanguage,
    JobPart,
    ModelPart,
    OutputPart,
    Part,
    TaskPart,
    Verdict,
    VocabularyPart,
    WindowsPart,
)
from secateur_service.evaluation.verdicts import judge
from secateur_service.evaluation.window_parts import ContextPart
from secateur_service.records.blocks import BlockRecord


class Report(Part):
    """report.json."""

    schema_version: Literal["2"] = "2"
    job: JobPart
    model: ModelPart
    output: OutputPart
    windows: WindowsPart
    context: ContextPart | None = Field(
        default=None, description="null if the windows are too short to say, and in older reports"
    )
    spec: dict[str, Any] = Field(description="the resolved specification")
    calibration: tuple[CalibrationLanguage, ...]
    evaluation: tuple[EvaluationLanguage, ...]
    headline: HeadlinePart | None = Field(default=None, description="null in older reports")
    vocabulary: VocabularyPart | None = Field(default=None, description="null if the vocabulary was not trimmed")
    removed_blocks: tuple[RemovedBlockPart, ...] = Field(default=(), description="in the order of their removal")
    budget: BudgetPart | None = Field(default=None, description="null if the specification gives the amounts")
    tasks: tuple[TaskPart, ...] = Field(
        default=(), description="every metric of every task; absent if none was asked for", exclude_if=lambda it: not it
    )
    continuations: tuple[ContinuedLanguage, ...] = Field(
        default=(),
        description="how both models continue a few texts of each evaluated language; absent if none was asked for",
        exclude_if=lambda it: not it,
    )
    affinity: AffinityPart | None = Field(
        default=None, description="null if no calibration text was used in the blocks, and in older reports"
    )
    language_neurons: LanguageNeuronsPart | None = Field(
        default=None,
        description="absent if not asked for, or if the model has no gated feed-forward layers outside of experts",
        exclude_if=lambda it: it is None,
    )
    sparsity: SparsityPart
    blocks: tuple[BlockPart, ...]
    verdicts: tuple[Verdict, ...]
    decision: DecisionPart | None = Field(default=None, description="null in older reports")

    @property
    def exceeded(self) -> tuple[Verdict, ...]:
        """The limits of the specification that the result exceeds; if there are any, it has no checkpoint."""
        return tuple(verdict for verdict in self.verdicts if verdict.kind == "LIMIT_EXCEEDED")

    def to_bytes(self) -> bytes:
        """The canonical form: equal reports have equal bytes."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
        return (text + "\n").encode()


def build_report(
    *,
    job: JobPart,
    model: ModelPart,
    output: OutputPart,
    windows: WindowsPart,
    spec: Mapping[str, Any],
    calibration: Iterable[CalibrationLanguage],
    evaluation: Iterable[EvaluationLanguage],
    blocks: Iterable[BlockRecord],
    vocabulary: VocabularyPart | None = None,
    removed_blocks: Iterable[RemovedBlockPart] = (),
    budget: BudgetPart | None = None,
    tasks: Iterable[TaskPart] = (),
    continuations: Iterable[ContinuedLanguage] = (),
    affinity: AffinityPart | None = None,
    language_neurons: LanguageNeuronsPart | None = None,
    context: ContextPart | None = None,
) -> Report:
    """The report of a job, including the sparsity and the verdicts computed from the other figures.

    Args:
        job: the job, and the software.
        model: the dense model.
        output: the output model.
        windows: how documents became windows.
        spec: the resolved specification as plain data.
        calibration: languages of the mix, in the mix's order.
        evaluation: languages that were evaluated, in the specification's order.
        blocks: all pruned blocks.
        vocabulary: what became of the vocabulary if it was trimmed.
        removed_blocks: blocks of the dense model that the output lacks.
        budget: how the service chose what to remove, if it did.
        tasks: every metric of every task.
        continuations: how both models continue a few texts of each language.
        affinity: how well the mix covers the evaluation languages.
        language_neurons: what became of neurons that belong to a language.
        context: how the dense model predicts along its windows.
    """
    mix, languages, answered = tuple(calibration), tuple(evaluation), tuple(tasks)
    parts = tuple(BlockPart.of(record) for record in sorted(blocks, key=lambda record: record.index))
    zeros = sum(layer.zeros for block in parts for layer in block.layers)
    size = sum(math.prod(layer.shape) for block in parts for layer in block.layers)
    limits = {entry["language"]: entry["growth"] for entry in (spec.get("limits") or {}).get("languages", ())}
    decision = decide(languages, limits, answered, (spec.get("limits") or {}).get("task_loss"))
    inverts = bool(spec["pruning"]) and spec["pruning"]["update"] != "none"
    verdicts = tuple(
        judge(
            mix,
            languages,
            parts,
            answered,
            affinity,
            inverts=inverts,
            prunes=bool(spec["pruning"]),
            trims=vocabulary is not None,
            decision=decision,
            context=context,
            positions=model.max_positions,
            rows=model.vocabulary,
        )
    )
    return Report(
        job=job,
        model=model,
        output=output,
        windows=windows,
        context=context,
        spec=dict(spec),
        calibration=mix,
        evaluation=languages,
        headline=headline_of(languages, verdicts, tasked=bool(answered), window_tokens=windows.tokens),
        vocabulary=vocabulary,
        removed_blocks=tuple(removed_blocks),
        budget=budget,
        tasks=answered,
        continuations=tuple(continuations),
        affinity=affinity,
        language_neurons=language_neurons,
        sparsity=SparsityPart(
            pruned_layers=zeros / max(size, 1), all_parameters=zeros / output.parameters, zeros=zeros, weights=size
        ),
        blocks=parts,
        verdicts=verdicts,
        decision=decision,
    )


def report_schema() -> dict[str, Any]:
    """The JSON Schema of report.json (draft 2020-12)."""
    schema = Report.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Secateur report"}


def schema_bytes() -> bytes:
    """The schema as published in docs/report.schema.json."""
    return (json.dumps(report_schema(), indent=2, ensure_ascii=False) + "\n").encode()


if __name__ == "__main__":
    import sys

    sys.stdout.buffer.write(schema_bytes())
