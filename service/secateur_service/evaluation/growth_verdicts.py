"""The verdicts on how much a language lost, by the growth of its perplexity; `verdicts` states their rules."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist

from secateur._bands import NOTICEABLE, SEVERE, band_in_words, growth_digits
from secateur._language_names import in_words
from secateur._text import digits
from secateur_service.evaluation.parts import NORMAL_975, EvaluationLanguage, EvidencePart, Verdict

LOST_RATIO = SEVERE
DAMAGED_RATIO = NOTICEABLE
LEFT_BEHIND_FACTOR = 1.2
FALSE_ALARMS = 0.025
ROUGH = 0.02
MIN_SCORED_TOKENS = 1700  # 2,048 tokens of short sentences leave some 1,800 to score


def lost(evaluation: Sequence[EvaluationLanguage], remedy: str) -> Iterator[Verdict]:
    """LANGUAGE_LOST."""
    for entry in evaluation:
        if entry.perplexity_ratio >= LOST_RATIO:
            yield Verdict(
                kind="LANGUAGE_LOST",
                language=entry.language,
                message=f"The model has all but forgotten {in_words(entry.language)}: its perplexity grew "
                f"{times(entry)}. {remedy}",
                evidence=ratio_evidence(entry, LOST_RATIO),
            )


def damaged(evaluation: Sequence[EvaluationLanguage], remedy: str) -> Iterator[Verdict]:
    """LANGUAGE_DAMAGED."""
    mix = [entry for entry in evaluation if entry.in_mix]
    least = NormalDist().inv_cdf(1 - FALSE_ALARMS / max(len(mix), 1))
    for entry in mix:
        beyond = math.log(entry.perplexity_ratio / DAMAGED_RATIO)
        if entry.perplexity_ratio < LOST_RATIO and beyond >= least * (entry.log_growth_error or 0.0):
            loss = band_in_words(entry.perplexity_ratio)
            yield Verdict(
                kind="LANGUAGE_DAMAGED",
                language=entry.language,
                message=f"{in_words(entry.language)} is damaged: its perplexity grew {times(entry)}, {loss}. {remedy}",
                evidence=ratio_evidence(entry, DAMAGED_RATIO),
            )


def left_behind(evaluation: Sequence[EvaluationLanguage], *, trims: bool, mixes: bool) -> Iterator[Verdict]:
    """LANGUAGE_LEFT_BEHIND.

    Args:
        evaluation: Evaluated languages.
        trims: Whether rows of the vocabulary were removed.
        mixes: Whether the mix has several languages.
    """
    for entry in evaluation:
        others = [other for other in evaluation if other is not entry]
        others = [other for other in others if other.in_mix] or others
        if not others:
            continue
        mean = sum(math.log(other.perplexity_ratio) for other in others) / len(others)
        difference = math.log(entry.perplexity_ratio) - mean
        error = _error_beside(entry, others)
        least = NormalDist().inv_cdf(1 - FALSE_ALARMS / len(evaluation)) * (error or 0.0)
        if difference >= max(math.log(LEFT_BEHIND_FACTOR), least):
            remedy = "raise its weight in the mix" if mixes else "remove less"
            if not entry.in_mix:
                remedy = "add it to the calibration mix"
            if trims:
                remedy += ", and keep more rows of the vocabulary or raise its weight in shrink.vocabulary.weights"
            bounds = error and (math.exp(difference - NORMAL_975 * error), math.exp(difference + NORMAL_975 * error))
            yield Verdict(
                kind="LANGUAGE_LEFT_BEHIND",
                language=entry.language,
                message=f"{in_words(entry.language)} is left behind: its perplexity grew {times(entry)}, that of "
                f"{_beside(entry, others)} ×{digits(math.exp(mean))}. If its speakers matter, {remedy}.",
                evidence=EvidencePart(
                    figure="growth of perplexity relative to the other languages",
                    estimate=math.exp(difference),
                    threshold=LEFT_BEHIND_FACTOR,
                    interval=bounds or None,
                    z=difference / error if error else None,
                ),
            )


def _beside(entry: EvaluationLanguage, others: Sequence[EvaluationLanguage]) -> str:
    if len(others) == 1:
        return in_words(others[0].language)
    if not others[0].in_mix:
        return "the other languages on average"
    return f"the {'other ' if entry.in_mix else ''}languages of the mix on average"


def _error_beside(entry: EvaluationLanguage, others: Sequence[EvaluationLanguage]) -> float | None:
    """The standard error of a language's logarithmic growth less the mean of the others'."""
    own, rest = entry.log_growth_error, [other.log_growth_error for other in others]
    known = [error for error in rest if error is not None]
    if own is None or len(known) < len(rest):
        return None
    return math.hypot(own, math.hypot(*known) / len(known))


def within_noise(evaluation: Sequence[EvaluationLanguage]) -> Iterator[Verdict]:
    """WITHIN_NOISE."""
    for entry in evaluation:
        bounds = entry.intervals and entry.intervals.perplexity_ratio
        if bounds and bounds[0] <= 1 <= bounds[1] and bounds[0] < bounds[1] and not _is_rough(entry):
            yield Verdict(
                kind="WITHIN_NOISE",
                language=entry.language,
                message=f"{in_words(entry.language)}: the growth of its perplexity is within the noise, {times(entry)} "
                f"(×{digits(bounds[0], 3)} to ×{digits(bounds[1], 3)}).",
                evidence=ratio_evidence(entry, 1.0),
            )


def too_small(evaluation: Sequence[EvaluationLanguage]) -> Iterator[Verdict]:
    """SAMPLE_TOO_SMALL."""
    for entry in evaluation:
        error = entry.log_growth_error
        if error is None:
            problem = f"only {entry.tokens:,} tokens of it were scored" if entry.tokens < MIN_SCORED_TOKENS else None
            if entry.documents is not None:
                few = "its only document is" if entry.documents == 1 else f"its {entry.documents:,} documents are"
                problem = f"{few} too few for a confidence interval"
            evidence = None
        else:
            low, high = entry.intervals.perplexity_ratio if entry.intervals else (math.nan, math.nan)
            problem = f"its growth may be anything from ×{digits(low)} to ×{digits(high)}" if _is_rough(entry) else None
            evidence = ratio_evidence(entry, 1.0)
        if problem:
            yield Verdict(
                kind="SAMPLE_TOO_SMALL",
                language=entry.language,
                message=f"The figures of {in_words(entry.language)} are rough: {problem}. Give it more documents, one "
                "a line in a text file, and raise evaluation.tokens_per_language if there are more than were taken.",
                evidence=evidence,
            )


def _is_rough(entry: EvaluationLanguage) -> bool:
    """Whether the interval reaches far, in itself and beside the growth."""
    error = entry.log_growth_error
    return error is not None and NORMAL_975 * error > max(ROUGH, 0.5 * abs(math.log(entry.perplexity_ratio)))


def times(entry: EvaluationLanguage) -> str:
    """The growth of a language's perplexity."""
    return f"×{growth_digits(entry.perplexity_ratio)}"


def ratio_evidence(entry: EvaluationLanguage, threshold: float) -> EvidencePart:
    """The growth of a language's perplexity as evidence."""
    error = entry.log_growth_error
    return EvidencePart(
        figure="growth of perplexity",
        estimate=entry.perplexity_ratio,
        threshold=threshold,
        interval=entry.intervals and entry.intervals.perplexity_ratio,
        z=math.log(entry.perplexity_ratio) / error if error else None,
    )
