"""Jobs side by side, as the service compares them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from secateur._report import TaskReport


@dataclass(frozen=True)
class ComparedLanguage:
    """What one job cost one language.

    Attributes:
        language: BCP 47 tag.
        in_mix: Whether the job calibrated on it.
        growth: By the comparison's `measure`; 1 means nothing was lost.
        interval: Of the growth, with 95 % confidence; None if the report has none.
        perplexity_ratio: Pruned over dense perplexity.
        bits_per_byte_ratio: Pruned over dense bits per byte.
        dense_bits_per_byte: Bits per byte of text of the dense model.
        pruned_bits_per_byte: Bits per byte of text of the pruned model.
    """

    language: str
    in_mix: bool
    growth: float
    interval: tuple[float, float] | None
    perplexity_ratio: float
    bits_per_byte_ratio: float
    dense_bits_per_byte: float
    pruned_bits_per_byte: float


@dataclass(frozen=True)
class ComparedJob:
    """One job: what it did, what came of it, and what that cost.

    Attributes:
        label: A, B, …: stands for the job in the rest of the comparison.
        name: Name of the job.
        model: URI of the dense model.
        model_digest: SHA-256 over its configuration and weights.
        recipe: What was done to it, in words.
        mix: The calibration languages with their shares.
        parameters: Parameters of the model that was written.
        dense_parameters: Parameters of the dense model.
        nonzero_parameters: `parameters` less the zeros in pruned layers.
        size_bytes: Size of all tensors; zeros take as much room as any other weight.
        decoding_bytes: Bytes of weights that are read for every token generated.
        sparsity: Share of zeros over the pruned layers.
        seconds: From its first start to its end, interruptions included; None if that is not known.
        has_checkpoint: False if it exceeded a limit of its specification.
        languages: What it cost each language, by BCP 47 tag.
        tasks: Every metric of the tasks that it had.
        verdicts: Kinds of its report's verdicts, each with its languages.
        differences: Why its figures do not compare with those of the other jobs; empty if they do.
    """

    label: str
    name: str
    model: str
    model_digest: str
    recipe: tuple[str, ...]
    mix: Mapping[str, float]
    parameters: int
    dense_parameters: int
    nonzero_parameters: int
    size_bytes: int
    decoding_bytes: int
    sparsity: float
    seconds: float | None
    has_checkpoint: bool
    languages: Mapping[str, ComparedLanguage]
    tasks: tuple[TaskReport, ...]
    verdicts: Mapping[str, tuple[str, ...]]
    differences: tuple[str, ...]


@dataclass(frozen=True)
class TradeoffPoint:
    """What a job lost against what it takes.

    Attributes:
        job: The job's label.
        amount: Bytes, parameters or seconds.
        growth: Of the language that loses most.
        optimal: Whether no other job is better in one of the two and at least as good in both.
    """

    job: str
    amount: float
    growth: float
    optimal: bool


@dataclass(frozen=True)
class Overlap:
    """How far two jobs on one model removed the same weights, on samples of their masks; the mean over the layers.

    Attributes:
        jobs: Their labels.
        shared: Weights that both removed over weights that one of them removed.
        chance: The same of two masks that have nothing to do with each other.
        beyond_chance: `shared` corrected for that: 1 for equal masks, 0 for chance.
    """

    jobs: tuple[str, str]
    shared: float
    chance: float
    beyond_chance: float


@dataclass(frozen=True)
class RelatedJobs:
    """The jobs that were not named, and were found by their dense models.

    Attributes:
        jobs: Their labels, the newest first.
        left_out: Older jobs of these models that have a report, too.
        unreadable: Names of jobs whose reports cannot be compared, with the reason.
    """

    jobs: tuple[str, ...]
    left_out: int
    unreadable: Mapping[str, str]


@dataclass(frozen=True)
class Contender:
    """A job, by the language that loses most in it.

    Attributes:
        job: The job's label.
        language: That language.
        growth: Its growth.
    """

    job: str
    language: str
    growth: float


@dataclass(frozen=True)
class Recommendation:
    """Which job to take, why, and what that does not say.

    Attributes:
        languages: What the job has to serve.
        stated: Whether the caller named them; else they are all that every job evaluated.
        max_growth: What each of them may lose at most, as a ratio; None for no limit.
        chosen: The recommended job; None if no job will do.
        runner_up: The next by the same rule.
        evidence: Why, in one sentence.
        caveats: What the recommendation does not show.
        left_out: Jobs that were not considered, by label, with the reason.
    """

    languages: tuple[str, ...]
    stated: bool
    max_growth: float | None
    chosen: Contender | None
    runner_up: Contender | None
    evidence: str
    caveats: tuple[str, ...]
    left_out: Mapping[str, str]


@dataclass(frozen=True)
class Comparison:
    """Jobs side by side.

    Attributes:
        measure: `perplexity`, pruned over dense; or, where base models differ, `bits_per_byte`: pruned bits per byte
            over the fewest that any of the dense models needs for the language.
        jobs: The jobs, by label, in the order in which they were named.
        best: By language, the labels of the jobs in which it lost least; none if too few evaluated it.
        tradeoffs: Jobs against `size_bytes`, `nonzero_parameters` and `seconds`, where they differ by 1 %.
        overlaps: How far pairs of jobs removed the same weights, where they pruned the same matrices.
        recommendation: Which job to take.
        related: What was found beside the named jobs; None if that was not asked for.
        html: The page, if it was asked for.
        content: All of it as plain data, as `secateur compare --output json` prints it.
    """

    measure: str
    jobs: Mapping[str, ComparedJob]
    best: Mapping[str, tuple[str, ...]]
    tradeoffs: Mapping[str, tuple[TradeoffPoint, ...]]
    overlaps: tuple[Overlap, ...]
    recommendation: Recommendation
    related: RelatedJobs | None
    html: str | None
    content: Mapping[str, Any]

    @property
    def recommended(self) -> ComparedJob | None:
        """The job to take; None if no job will do."""
        chosen = self.recommendation.chosen
        return self.jobs[chosen.job] if chosen else None


def comparison_of(content: Mapping[str, Any], html: str | None = None) -> Comparison:
    """A comparison from its plain data, which a newer service may have more of."""
    return Comparison(
        measure=content["measure"],
        jobs={entry["label"]: _job(entry) for entry in content["jobs"]},
        best={column["language"]: tuple(column["best"]) for column in content["columns"]},
        tradeoffs={
            entry["axis"]: tuple(
                TradeoffPoint(point["job"], float(point["amount"]), float(point["growth"]), point["optimal"])
                for point in entry["points"]
            )
            for entry in content["tradeoffs"]
        },
        overlaps=tuple(
            Overlap(
                jobs=(pair["jobs"][0], pair["jobs"][1]),
                shared=float(pair["shared"]),
                chance=float(pair["chance"]),
                beyond_chance=float(pair["beyond_chance"]),
            )
            for pair in content["overlaps"]
        ),
        recommendation=_recommendation(content["recommendation"]),
        related=_related(content.get("related")),
        html=html,
        content=content,
    )


def _job(entry: Mapping[str, Any]) -> ComparedJob:
    seconds = entry["seconds"]
    return ComparedJob(
        label=entry["label"],
        name=entry["name"],
        model=entry["model"],
        model_digest=entry["model_digest"],
        recipe=tuple(entry["recipe"]),
        mix={language: float(share) for language, share in entry["mix"].items()},
        parameters=entry["parameters"],
        dense_parameters=entry["dense_parameters"],
        nonzero_parameters=entry["nonzero_parameters"],
        size_bytes=entry["size_bytes"],
        decoding_bytes=entry["decoding_bytes"],
        sparsity=float(entry["sparsity"]),
        seconds=None if seconds is None else float(seconds),
        has_checkpoint=entry["has_checkpoint"],
        languages={language["language"]: _language(language) for language in entry["languages"]},
        tasks=tuple(map(TaskReport.of, entry.get("tasks") or ())),
        verdicts={kind: tuple(languages) for kind, languages in entry["verdicts"].items()},
        differences=tuple(entry["differences"]),
    )


def _language(entry: Mapping[str, Any]) -> ComparedLanguage:
    interval = entry.get("interval")
    return ComparedLanguage(
        language=entry["language"],
        in_mix=entry["in_mix"],
        growth=float(entry["growth"]),
        interval=(float(interval[0]), float(interval[1])) if interval else None,
        perplexity_ratio=float(entry["perplexity_ratio"]),
        bits_per_byte_ratio=float(entry["bits_per_byte_ratio"]),
        dense_bits_per_byte=float(entry["dense_bits_per_byte"]),
        pruned_bits_per_byte=float(entry["pruned_bits_per_byte"]),
    )


def _recommendation(entry: Mapping[str, Any]) -> Recommendation:
    limit = entry["max_growth"]
    return Recommendation(
        languages=tuple(entry["languages"]),
        stated=entry["stated"],
        max_growth=None if limit is None else float(limit),
        chosen=_contender(entry["chosen"]),
        runner_up=_contender(entry["runner_up"]),
        evidence=entry["evidence"],
        caveats=tuple(entry["caveats"]),
        left_out=dict(entry["left_out"]),
    )


def _related(entry: Mapping[str, Any] | None) -> RelatedJobs | None:
    return None if entry is None else RelatedJobs(tuple(entry["jobs"]), int(entry["left_out"]), entry["unreadable"])


def _contender(entry: Mapping[str, Any] | None) -> Contender | None:
    return None if entry is None else Contender(entry["job"], entry["language"], float(entry["growth"]))
