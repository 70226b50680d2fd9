"""The parts of a comparison of jobs: each figure once, with its meaning.

The published schema is generated from them:

python -m secateur_service.evaluation.comparison_parts > docs/comparison.schema.json
"""

from __future__ import annotations

import json
from typing import Literal

from pydantic import Field

from secateur_service.evaluation.parts import Interval, Part, Share, TaskPart

Measure = Literal["perplexity", "bits_per_byte"]
Axis = Literal["size_bytes", "nonzero_parameters", "seconds"]

_LABEL = "the job's `label`"


class ComparedLanguage(Part):
    """What one job cost one language."""

    language: str
    in_mix: bool = Field(description="whether the job calibrated on the language")
    growth: float = Field(description="by the comparison's `measure`; 1 means nothing was lost")
    interval: Interval | None = Field(
        default=None, description="of the growth, with 95 % confidence; null if the report has none"
    )
    perplexity_ratio: float = Field(description="pruned / dense perplexity, as in the report")
    bits_per_byte_ratio: float = Field(description="pruned / dense bits per byte")
    dense_bits_per_byte: float
    pruned_bits_per_byte: float


class ComparedJob(Part):
    """One job: what it did, what came of it, and what that cost."""

    label: str = Field(description="A, B, …: stands for the job in the rest of the comparison")
    name: str = Field(description="of the job, or of the folder with its result")
    model: str = Field(description="URI of the dense model")
    model_digest: str = Field(description="SHA-256 over its configuration and weights")
    recipe: tuple[str, ...] = Field(description="what was done to it, in words")
    mix: dict[str, float] = Field(description="the calibration languages with their shares")
    parameters: int
    dense_parameters: int
    nonzero_parameters: int = Field(description="parameters less the zeros in pruned layers")
    size_bytes: int = Field(description="bytes of all tensors; zeros take as much room as any other weight")
    decoding_bytes: int = Field(description="bytes of weights that are read for every token generated")
    sparsity: Share = Field(description="zeros / weights of the pruned layers")
    seconds: float | None = Field(
        description="from the job's first start to its end, interruptions included; of a folder, the time of its run; "
        "null if that is not known"
    )
    has_checkpoint: bool = Field(description="false if the job exceeded a limit of its specification")
    languages: tuple[ComparedLanguage, ...]
    tasks: tuple[TaskPart, ...] = Field(default=(), description="every metric of every task, as in the report")
    verdicts: dict[str, tuple[str, ...]] = Field(
        description="kinds of the report's verdicts, each with its languages; none where it concerns the whole model"
    )
    differences: tuple[str, ...] = Field(
        description="why its figures do not compare with those of the other jobs; empty if they do"
    )


class ComparedColumn(Part):
    """One evaluation language, over all jobs."""

    language: str
    best: tuple[str, ...] = Field(
        description="labels of the jobs in which it lost least; empty if fewer than two comparable jobs evaluated it"
    )


class TradeoffPoint(Part):
    """One job on a plot of what it lost against what it takes."""

    job: str = Field(description=_LABEL)
    amount: float = Field(description="on the plot's `axis`")
    growth: float = Field(description="of the worst of the languages in question")
    optimal: bool = Field(description="whether no other job is better in one of the two and at least as good in both")


class Tradeoff(Part):
    """What comparable jobs with a checkpoint lost against what they take; left out where all take as much, to 1 %."""

    axis: Axis
    points: tuple[TradeoffPoint, ...]


class Contender(Part):
    """A job, by the language that loses most in it."""

    job: str = Field(description=_LABEL)
    language: str
    growth: float


class Recommendation(Part):
    """Which job to take, why, and what that does not say."""

    languages: tuple[str, ...] = Field(description="that the job has to serve")
    stated: bool = Field(description="whether the caller named them; else they are all that every job evaluated")
    max_growth: float | None = Field(description="what each of them may lose at most, as a ratio; null for no limit")
    chosen: Contender | None = Field(description="null if no job will do")
    runner_up: Contender | None = Field(description="the next by the same rule")
    evidence: str = Field(description="one sentence")
    caveats: tuple[str, ...] = Field(description="what the recommendation does not show")
    left_out: dict[str, str] = Field(description="jobs that were not considered, by label, with the reason")


class Overlap(Part):
    """How far two jobs on one model removed the same weights, on samples of their masks; the mean over the layers."""

    jobs: tuple[str, str] = Field(description="their labels")
    shared: Share = Field(description="weights that both removed / weights that one of them removed")
    chance: Share = Field(
        description="the same of two masks that have nothing to do with each other: s₁s₂ / (s₁ + s₂ − s₁s₂)"
    )
    beyond_chance: float = Field(description="(shared − chance) / (1 − chance): 1 for equal masks, 0 for chance")


class Related(Part):
    """The jobs that were not named, and were found by their dense models."""

    jobs: tuple[str, ...] = Field(description="their labels, the newest first")
    left_out: int = Field(description="older jobs of these models that have a report, too")
    unreadable: dict[str, str] = Field(description="names of jobs whose reports cannot be compared, with the reason")


class Comparison(Part):
    """Jobs side by side."""

    schema_version: Literal["1"] = "1"
    measure: Measure = Field(
        description="perplexity: pruned / dense perplexity. bits_per_byte, where base models differ: pruned bits per "
        "byte / the fewest that any of the dense models needs for the language"
    )
    columns: tuple[ComparedColumn, ...]
    jobs: tuple[ComparedJob, ...]
    tradeoffs: tuple[Tradeoff, ...]
    overlaps: tuple[Overlap, ...] = Field(
        description="of all pairs of jobs that pruned matrices of the same shapes, none narrowed, of one dense model"
    )
    recommendation: Recommendation
    related: Related | None = Field(
        default=None, description="absent if all jobs were named", exclude_if=lambda it: it is None
    )


def schema_bytes() -> bytes:
    """The JSON Schema of a comparison (draft 2020-12), as published in docs/comparison.schema.json."""
    schema = Comparison.model_json_schema(mode="serialization")
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Secateur comparison"}
    return (json.dumps(whole, indent=2, ensure_ascii=False) + "\n").encode()


if __name__ == "__main__":
    import sys

    sys.stdout.buffer.write(schema_bytes())
