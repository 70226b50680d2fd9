"""Compares jobs by their reports: per language, by size and by time, and says which one to take for some languages.

Only like is compared with like. Of one dense model, two jobs compare if they evaluated the same text: the same tokens,
bytes and, but for rounding, dense perplexity. Of two dense models, whose tokens differ, they compare if the text was
chosen in the same way; then nothing but bits per byte means the same for both, and what counts is how far a job is from
the best dense model. Most jobs decide: those that compare with fewer of the others are shown, but are never the best.

Nothing here reads files or the clock.
"""

from __future__ import annotations

import itertools
import json
import math
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

from pydantic import ValidationError

from secateur._findings import worded
from secateur._text import listed
from secateur_service.errors import NotReadyError
from secateur_service.evaluation.comparison_parts import (
    Axis,
    ComparedColumn,
    ComparedJob,
    ComparedLanguage,
    Comparison,
    Measure,
    Overlap,
    Related,
    Tradeoff,
    TradeoffPoint,
)
from secateur_service.evaluation.html import recipe
from secateur_service.evaluation.overlap import Masks, overlap
from secateur_service.evaluation.parts import (
    EvaluationLanguage,
    ModelPart,
    OutputPart,
    TaskPart,
    Verdict,
)
from secateur_service.evaluation.recommendation import contender_of, growths, recommend
from secateur_service.evaluation.report import Report
from secateur_service.pruning.methods import Moments, Recipe

MAX_JOBS = 50
SAME_DENSE = 0.01
"""By how large a share dense perplexities of the same text may differ, on other devices and in other types."""
LEAST_SPREAD = 0.01
"""By how large a share jobs have to differ in size or time for a plot to say something."""


@dataclass(frozen=True)
class Candidate:
    """What a comparison needs of a job; much less than its report.

    Attributes:
        name: of the job, or of the folder with its result.
        seconds: how long it took; None if that is not known.
        settings: what the text of the evaluation depends on, by the name of the field.
        blind_recipe: the pruning of a job in which no text had a say, so that its mix changed nothing; None for others.
    """

    name: str
    seconds: float | None
    model: ModelPart
    output: OutputPart
    recipe: tuple[str, ...]
    mix: Mapping[str, float]
    zeros: int
    sparsity: float
    evaluation: tuple[EvaluationLanguage, ...]
    tasks: tuple[TaskPart, ...]
    verdicts: tuple[Verdict, ...]
    settings: Mapping[str, str]
    blind_recipe: str | None
    masks: Masks | None

    @classmethod
    def of(cls, name: str, report: Report, seconds: float | None = None) -> Self:
        """Pick what is needed from a report."""
        return cls(
            name=name,
            seconds=seconds,
            model=report.model,
            output=report.output,
            recipe=tuple(recipe(report)),
            mix={entry.language: entry.weight for entry in report.calibration if entry.weight > 0},
            zeros=report.sparsity.zeros,
            sparsity=report.sparsity.pruned_layers,
            evaluation=report.evaluation,
            tasks=report.tasks,
            verdicts=report.verdicts,
            settings=_settings(report),
            blind_recipe=_blind_recipe(report),
            masks=Masks.of(report),
        )

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a model to take."""
        return all(verdict.kind != "LIMIT_EXCEEDED" for verdict in self.verdicts)


def readable_report(name: str, content: Any) -> Report:
    """A published report.json, which may be of a newer release and say more than this one knows.

    Raises:
        NotReadyError: it is of another release, and what is needed is not in it.
    """
    try:
        return Report.model_validate(content, extra="ignore")
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise NotReadyError(
            f"the report of {name} cannot be compared: it is of another release ({where}: {worded(fault)}); run the "
            "job again with this one",
            reason="REPORT_NOT_COMPARABLE",
            metadata={"job": name},
        ) from error


@dataclass(frozen=True)
class Found:
    """Jobs that nobody named: what was found of the models of the named ones.

    Attributes:
        candidates: the newest first.
        left_out: how many older ones there are.
        unreadable: names of those whose reports cannot be compared, with the reason.
    """

    candidates: tuple[Candidate, ...]
    left_out: int
    unreadable: Mapping[str, str]


def compare(
    named: Sequence[Candidate],
    targets: Iterable[str] = (),
    max_growth: float | None = None,
    *,
    found: Found | None = None,
) -> Comparison:
    """Compare jobs.

    Args:
        named: The jobs, each once.
        targets: Languages, in canonical form, that the recommended job has to serve; by default all that every
            comparable job evaluated.
        max_growth: What each of them may lose at most, as a ratio. The smallest job within it is recommended; without
            it the one in which the worst language loses least.
        found: Other jobs of their models; the named ones decide which text is compared.
    """
    candidates = [*named, *(found.candidates if found else ())]
    differences = _differences(candidates, len(named))
    comparable = [candidate for candidate, found in zip(candidates, differences, strict=True) if not found]
    measure: Measure = "perplexity" if len({entry.model.digest for entry in comparable}) <= 1 else "bits_per_byte"
    dense = _best_dense(comparable)
    jobs = tuple(
        _compared(label, candidate, found, measure, {} if found else dense)
        for label, candidate, found in zip(labels(len(candidates)), candidates, differences, strict=True)
    )
    languages = list(dict.fromkeys(entry.language for job in jobs for entry in job.languages))
    stated = tuple(dict.fromkeys(targets))
    wanted = stated or _common(job for job in jobs if not job.differences)
    return Comparison(
        measure=measure,
        columns=tuple(_column(language, jobs) for language in languages),
        jobs=jobs,
        tradeoffs=tuple(_tradeoffs(jobs, wanted)),
        overlaps=tuple(_overlaps(candidates)),
        recommendation=recommend(
            jobs,
            wanted,
            stated=bool(stated),
            max_growth=max_growth,
            measure=measure,
            same_models=_same_models(candidates),
        ),
        related=found
        and Related(
            jobs=tuple(job.label for job in jobs[len(named) :]),
            left_out=found.left_out,
            unreadable=dict(found.unreadable),
        ),
    )


def labels(count: int) -> list[str]:
    """Short names: A, B, …, Z, AA, AB and so on."""
    letters = string.ascii_uppercase
    return [*letters, *(first + second for first in letters for second in letters)][:count]


def _settings(report: Report) -> dict[str, str]:
    calibration, evaluation = report.spec["calibration"], report.spec.get("evaluation") or {}
    corpus = evaluation.get("corpus") or f"a part of {calibration.get('corpus')}"
    return {
        "evaluation.corpus": str(corpus),
        "evaluation.text_field": str(evaluation.get("text_field")),
        "evaluation.chat_template": str(evaluation.get("chat_template")).lower(),
        "evaluation.tokens_per_language": str(evaluation.get("tokens_per_language")),
        "evaluation.enough_documents": str(evaluation.get("enough_documents")),
        "calibration.seed": str(calibration.get("seed")),
        "calibration.sequence_length": str(report.windows.tokens),
        "calibration.document_separator": str(calibration.get("document_separator")),
    }


def _blind_recipe(report: Report) -> str | None:
    pruning = report.spec.get("pruning") or {}
    allocates = (pruning.get("allocation") or {}).get("policy") != "uniform"
    if not pruning or allocates or report.spec.get("shrink") or report.spec.get("reconstruction"):
        return None
    is_blind = Recipe.of(pruning["method"], pruning["update"]).moments is Moments.NONE
    return json.dumps(pruning, sort_keys=True) if is_blind else None


def _same_models(candidates: Sequence[Candidate]) -> list[list[str]]:
    """The labels of jobs that made one model, although their mixes differ: no text had a say in their pruning."""
    groups: dict[tuple[str, str], dict[str, Mapping[str, float]]] = {}
    for label, candidate in zip(labels(len(candidates)), candidates, strict=True):
        if candidate.blind_recipe is not None:
            groups.setdefault((candidate.model.digest, candidate.blind_recipe), {})[label] = candidate.mix
    return [list(mixes) for mixes in groups.values() if any(mix != other for mix, other in pairwise(mixes.values()))]


def _differences(candidates: Sequence[Candidate], named: int) -> list[tuple[str, ...]]:
    """For each job why it is left out; nothing for those that all compare with each other, as many as are found.

    The first ones, which were named, come first.
    """
    against = [[_difference(one, other) for other in candidates] for one in candidates]
    accepted: list[int] = []
    found: list[tuple[str, ...]] = [()] * len(candidates)
    apart = [sum(map(bool, each)) for each in against]
    for number in sorted(range(len(candidates)), key=lambda number: (number >= named, apart[number])):
        found[number] = tuple(next((against[number][other] for other in accepted if against[number][other]), ()))
        if not found[number]:
            accepted.append(number)
    return found


def _difference(one: Candidate, reference: Candidate) -> list[str]:
    """Why a job does not compare with another; nothing if it does."""
    changed = [
        f"{name} is {value}, and not {reference.settings[name]}"
        for name, value in one.settings.items()
        if value != reference.settings[name]
    ]
    theirs = {entry.language: entry for entry in reference.evaluation}
    both = [(entry, theirs[entry.language]) for entry in one.evaluation if entry.language in theirs]
    if one.model.digest != reference.model.digest or not both:
        return changed
    other = [entry.language for entry, their in both if not _same_text(entry, their)]
    if not other:
        return []
    return changed or [f"the evaluation text of {listed(other)} is another, although it is named alike"]


def _same_text(one: EvaluationLanguage, other: EvaluationLanguage) -> bool:
    """Whether one dense model has seen the same text twice."""
    counts = all(getattr(one, name) == getattr(other, name) for name in ("windows", "tokens", "bytes"))
    return counts and math.isclose(one.dense_perplexity, other.dense_perplexity, rel_tol=SAME_DENSE)


def _best_dense(candidates: Iterable[Candidate]) -> dict[str, float]:
    """The fewest bits per byte that any dense model needs, by language."""
    found: dict[str, float] = {}
    for candidate in candidates:
        for entry in candidate.evaluation:
            bits = entry.dense_bits_per_byte
            found[entry.language] = min(found.get(entry.language, bits), bits)
    return found


def _compared(
    label: str, candidate: Candidate, differences: tuple[str, ...], measure: Measure, dense: Mapping[str, float]
) -> ComparedJob:
    verdicts: dict[str, tuple[str, ...]] = {}
    for verdict in candidate.verdicts:
        named = (verdict.language,) if verdict.language else ()
        verdicts[verdict.kind] = tuple(dict.fromkeys(verdicts.get(verdict.kind, ()) + named))
    return ComparedJob(
        label=label,
        name=candidate.name,
        model=candidate.model.uri,
        model_digest=candidate.model.digest,
        recipe=candidate.recipe,
        mix=dict(candidate.mix),
        parameters=candidate.output.parameters,
        dense_parameters=candidate.model.parameters,
        nonzero_parameters=candidate.output.parameters - candidate.zeros,
        size_bytes=candidate.output.size_bytes,
        decoding_bytes=candidate.output.decoding_bytes,
        sparsity=candidate.sparsity,
        seconds=candidate.seconds,
        has_checkpoint=candidate.has_checkpoint,
        languages=tuple(_compared_language(entry, measure, dense) for entry in candidate.evaluation),
        tasks=candidate.tasks,
        verdicts=verdicts,
        differences=differences,
    )


def _compared_language(entry: EvaluationLanguage, measure: Measure, dense: Mapping[str, float]) -> ComparedLanguage:
    best = dense.get(entry.language, entry.dense_bits_per_byte)
    growth, interval = entry.pruned_bits_per_byte / best, entry.intervals and entry.intervals.pruned_bits_per_byte
    if interval:
        interval = interval[0] / best, interval[1] / best
    if measure == "perplexity":
        growth, interval = entry.perplexity_ratio, entry.intervals and entry.intervals.perplexity_ratio
    return ComparedLanguage(
        language=entry.language,
        in_mix=entry.in_mix,
        growth=growth,
        interval=interval,
        perplexity_ratio=entry.perplexity_ratio,
        bits_per_byte_ratio=entry.pruned_bits_per_byte / entry.dense_bits_per_byte,
        dense_bits_per_byte=entry.dense_bits_per_byte,
        pruned_bits_per_byte=entry.pruned_bits_per_byte,
    )


def _common(jobs: Iterable[ComparedJob]) -> tuple[str, ...]:
    """The languages that every job evaluated, in the first one's order."""
    evaluated = [[entry.language for entry in job.languages] for job in jobs]
    first = evaluated[0] if evaluated else []
    return tuple(language for language in first if all(language in others for others in evaluated))


def _column(language: str, jobs: Sequence[ComparedJob]) -> ComparedColumn:
    found = {
        job.label: growth[language] for job in jobs if not job.differences and (growth := growths(job, [language]))
    }
    least = min(found.values(), default=0.0)
    best = tuple(label for label, growth in found.items() if growth == least) if len(found) > 1 else ()
    return ComparedColumn(language=language, best=best)


def _tradeoffs(jobs: Sequence[ComparedJob], languages: Sequence[str]) -> Iterable[Tradeoff]:
    axes: tuple[Axis, ...] = ("size_bytes", "nonzero_parameters", "seconds")
    for axis in axes:
        found = [
            (job.label, float(amount), contender.growth)
            for job in jobs
            if not job.differences
            and job.has_checkpoint
            and (contender := contender_of(job, languages)) is not None
            and (amount := getattr(job, axis)) is not None
        ]
        amounts = [amount for _, amount, _ in found]
        if not amounts or max(amounts) < (1 + LEAST_SPREAD) * min(amounts):
            continue
        yield Tradeoff(
            axis=axis,
            points=tuple(
                TradeoffPoint(
                    job=label,
                    amount=amount,
                    growth=growth,
                    optimal=not any(
                        other_amount <= amount
                        and other_growth <= growth
                        and (other_amount, other_growth) != (amount, growth)
                        for _, other_amount, other_growth in found
                    ),
                )
                for label, amount, growth in found
            ),
        )


def _overlaps(candidates: Sequence[Candidate]) -> Iterable[Overlap]:
    """Of all pairs; the text of the evaluation does not matter here."""
    named = zip(labels(len(candidates)), candidates, strict=True)
    for (label, one), (other_label, other) in itertools.combinations(named, 2):
        found = overlap(one.masks, other.masks) if one.masks and other.masks else None
        if found is not None:
            yield Overlap(
                jobs=(label, other_label),
                shared=found.shared,
                chance=found.chance,
                beyond_chance=found.beyond_chance,
            )
