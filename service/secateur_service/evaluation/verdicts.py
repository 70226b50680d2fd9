"""Verdicts: what a report's figures mean, in words, by the following rules.

OTHER_LANGUAGE
    Less than `SAME_LANGUAGE_SHARE` of the documents seem to be in their claimed language.
LIMIT_EXCEEDED
    The language's bits per byte grew, or a metric of a task lost, more than the specification allows.
LANGUAGE_LOST
    The language's perplexity grew at least `LOST_RATIO` times: the model has all but forgotten it.
LANGUAGE_LEFT_BEHIND
    The language's perplexity grew at least `LEFT_BEHIND_FACTOR` times as much as the geometric mean of the other
    languages' growth, and that is no chance of the documents drawn: of reports in which all lost the same, at most
    `FALSE_ALARMS` say so of any language. The standard errors of the logarithms are those of the languages' intervals,
    and the level is divided by the number of languages (Bonferroni). Needs two languages; the mean is geometric because
    growth multiplies. Between languages of one mix, benchmarks/languages.py finds up to 1.11 times,
    and 1.27 for a language with English calibrated in its place.
LIMIT_UNCLEAR
    The language's growth, or a task's loss, is within its limit, but its confidence interval is not, or is not known.
PERPLEXITY_KEPT_TASKS_LOST, TASKS_LOST
    Of the items of a task more are lost than won, by the exact one-sided test of McNemar (1947) on those that flipped;
    of reports in which nothing was lost, at most `FALSE_ALARMS` say so of any task. The first kind if the perplexity of
    the task's language grew at most `KEPT_RATIO` times: the figure that most look at did not show it.
MIX_DOES_NOT_COVER
    The language's affinity with the calibration mix is below what parts of the mix's own text have: see
    `pruning.affinity`. Measured before the pruning, and logged at once. benchmarks/affinity.py shows what such
    languages lose.
NOT_CALIBRATED
    The language was evaluated but has no weight in the mix, and was not reported as poorly covered: what it kept, it
    kept by accident.
WITHIN_NOISE
    The confidence interval of the growth includes 1 and is narrow: nothing measurable was lost, or gained.
SAMPLE_TOO_SMALL
    The interval of the growth reaches further to either side than `ROUGH` and than half of the growth itself. Without
    an interval: fewer than `MIN_SCORED_TOKENS` tokens of the language were scored, or it has too few documents.
FEW_CALIBRATION_TOKENS
    The update inverts second moments, and the language has fewer calibration tokens than the widest layer has inputs,
    so that its own share of the moments is rank-deficient.
NOTHING_TRAINED
    Blocks were trained, and none came closer to the dense model on text that was held out.
LAYER_NOTES
    Layers that were pruned with difficulty, for example because a factorisation needed more damping.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Sequence
from statistics import NormalDist

from secateur._task_loss import loss_in_words, task_loss
from secateur._text import digits
from secateur_service.evaluation.decision import (
    DecisionPart,
    LanguageDecision,
    TaskDecision,
    settling,
    settling_items,
)
from secateur_service.evaluation.language_parts import AffinityPart
from secateur_service.evaluation.parts import (
    NORMAL_975,
    BlockPart,
    CalibrationLanguage,
    EvaluationLanguage,
    EvidencePart,
    TaskPart,
    Verdict,
)

SAME_LANGUAGE_SHARE = 0.5
LOST_RATIO = 10.0
LEFT_BEHIND_FACTOR = 1.2
KEPT_RATIO = 1.1
FALSE_ALARMS = 0.025
ROUGH = 0.02
MIN_SCORED_TOKENS = 1700  # 2,048 tokens of short sentences leave some 1,800 to score
NAMED_LAYERS = 3


def judge(
    calibration: Sequence[CalibrationLanguage],
    evaluation: Sequence[EvaluationLanguage],
    blocks: Sequence[BlockPart],
    tasks: Sequence[TaskPart] = (),
    affinity: AffinityPart | None = None,
    *,
    inverts: bool,
    prunes: bool = True,
    trims: bool = False,
    decision: DecisionPart | None = None,
) -> Iterator[Verdict]:
    """All verdicts, the most serious kinds first, languages in the order in which they were evaluated.

    Args:
        calibration: Languages of the mix.
        evaluation: Evaluated languages.
        blocks: Pruned blocks.
        tasks: Every metric of every task.
        affinity: Of the evaluated languages with the mix.
        prunes: Whether weights were pruned, and parts were not only removed.
        trims: Whether rows of the vocabulary were removed.
        decision: What the limits say, if there are any.
        inverts: Whether the update of the kept weights inverts second moments.
    """
    yield from _other_language("calibration", calibration)
    yield from _other_language("evaluation", evaluation)
    if decision:
        yield from _exceeded(decision)
        yield from _unclear(decision)
    yield from _lost(evaluation, prunes=prunes, trims=trims)
    yield from _tasks_lost(tasks, evaluation)
    mix = {entry.language for entry in calibration if entry.weight > 0}
    yield from _left_behind(evaluation, trims=trims, mixes=len(mix) > 1)
    uncovered = set()
    if affinity is not None:
        for verdict in not_covered(affinity, mix):
            uncovered.add(verdict.language)
            yield verdict
    yield from _not_calibrated(entry for entry in evaluation if entry.language not in uncovered)
    yield from _within_noise(evaluation)
    yield from _too_small(evaluation)
    if inverts:
        yield from _few_tokens(calibration, blocks)
    yield from _nothing_trained(blocks)
    yield from _layer_notes(blocks)


def _other_language(purpose: str, texts: Sequence[CalibrationLanguage | EvaluationLanguage]) -> Iterator[Verdict]:
    for entry in texts:
        found = entry.identified
        if found is not None and found.share < SAME_LANGUAGE_SHARE:
            yield _verdict(
                "OTHER_LANGUAGE",
                entry.language,
                f"The {purpose} text of {entry.language} seems to be in another language: of {found.documents} "
                f"documents {found.other_share:.0%} read like {found.other}, {found.share:.0%} like {entry.language}. "
                "Look at the corpus.",
            )


def _exceeded(decision: DecisionPart) -> Iterator[Verdict]:
    for found in decision.languages:
        if found.answer == "FAIL":
            yield _verdict(
                "LIMIT_EXCEEDED",
                found.language,
                f"{found.language}: bits per byte grew by {found.growth:.2%}, more than the limit of "
                f"{found.limit:.2%}.",
                _limit_evidence(found),
            )
    for metric in decision.tasks:
        if metric.answer == "FAIL":
            lost = "is no number any more" if metric.loss is None else loss_in_words(metric.loss, 4)
            yield _verdict(
                "LIMIT_EXCEEDED",
                metric.language,
                f"{metric.task}: {metric.metric} {lost}, more than the limit of {metric.limit:g}.",
                _loss_evidence(metric),
            )


def _unclear(decision: DecisionPart) -> Iterator[Verdict]:
    for found in decision.languages:
        if found.answer == "CANNOT_TELL":
            reach = f"may be up to {found.interval[1]:.2%}" if found.interval else "is not known well enough"
            yield _verdict(
                "LIMIT_UNCLEAR",
                found.language,
                f"{found.language}: bits per byte grew by {found.growth:.2%}, within the limit of {found.limit:.2%}, "
                f"but in all text of the language it {reach}. {settling([found])}",
                _limit_evidence(found),
            )
    for metric in decision.tasks:
        if metric.answer == "CANNOT_TELL" and metric.loss is not None:
            reach = f"may be up to {metric.interval[1]:.4f}" if metric.interval else "is not known well enough"
            yield _verdict(
                "LIMIT_UNCLEAR",
                metric.language,
                f"{metric.task}: {metric.metric} {loss_in_words(metric.loss, 4)}, within the limit of "
                f"{metric.limit:g}, but over all items of its kind the loss {reach}. {settling_items([metric])}",
                _loss_evidence(metric),
            )


def _limit_evidence(found: LanguageDecision) -> EvidencePart:
    return EvidencePart(
        figure="growth of bits per byte", estimate=found.growth, threshold=found.limit, interval=found.interval
    )


def _loss_evidence(found: TaskDecision) -> EvidencePart | None:
    if found.loss is None:
        return None
    figure = f"loss of {found.metric} of {found.task}"
    return EvidencePart(figure=figure, estimate=found.loss, threshold=found.limit, interval=found.interval)


def _lost(evaluation: Sequence[EvaluationLanguage], *, prunes: bool, trims: bool) -> Iterator[Verdict]:
    remedy = "Remove less, or calibrate on the language and keep it, if the model has to serve it."
    if prunes and not trims:
        remedy = "Prune less, or choose a method that corrects the weights it keeps."
    for entry in evaluation:
        if entry.perplexity_ratio >= LOST_RATIO:
            yield _verdict(
                "LANGUAGE_LOST",
                entry.language,
                f"The model has all but forgotten {entry.language}: its perplexity grew {_times(entry)}. {remedy}",
                _ratio_evidence(entry, LOST_RATIO),
            )


def _left_behind(evaluation: Sequence[EvaluationLanguage], *, trims: bool, mixes: bool) -> Iterator[Verdict]:
    for entry in evaluation:
        others = [other for other in evaluation if other is not entry]
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
            yield _verdict(
                "LANGUAGE_LEFT_BEHIND",
                entry.language,
                f"{entry.language} is left behind: its perplexity grew {_times(entry)}, that of the other languages "
                f"×{digits(math.exp(mean))} on average. If its speakers matter, {remedy}.",
                EvidencePart(
                    figure="growth of perplexity relative to the other languages",
                    estimate=math.exp(difference),
                    threshold=LEFT_BEHIND_FACTOR,
                    interval=bounds or None,
                    z=difference / error if error else None,
                ),
            )


def _error_beside(entry: EvaluationLanguage, others: Sequence[EvaluationLanguage]) -> float | None:
    """The standard error of a language's logarithmic growth less the mean of the others'."""
    own, rest = entry.log_growth_error, [other.log_growth_error for other in others]
    known = [error for error in rest if error is not None]
    if own is None or len(known) < len(rest):
        return None
    return math.hypot(own, math.hypot(*known) / len(known))


def _tasks_lost(tasks: Sequence[TaskPart], evaluation: Sequence[EvaluationLanguage]) -> Iterator[Verdict]:
    # Metrics of one task are of the same items: the first that is right or wrong stands for it.
    judged = {entry.task: entry for entry in reversed(tasks) if entry.flips is not None}
    ratios = {entry.language: entry.perplexity_ratio for entry in evaluation}
    mix = {entry.language for entry in evaluation if entry.in_mix}
    for entry in (entry for entry in tasks if judged.get(entry.task) is entry):
        if entry.flips is None or entry.difference is None:
            continue
        went = "rose" if entry.higher_is_better is False else "fell"
        flipped = round(entry.flips * entry.samples)
        loss = task_loss(entry) or 0.0
        lost = round((entry.flips + loss) * entry.samples / 2)
        if not flipped or _at_least(lost, flipped) > FALSE_ALARMS / len(judged):
            continue
        growth = ratios.get(entry.language or "", math.inf)
        kept = growth <= KEPT_RATIO
        remedy = "Prune less" if entry.language in mix else "Prune less, or calibrate on the language"
        grew = f", although its perplexity grew only ×{growth:.2f}" if kept else ""
        yield _verdict(
            "PERPLEXITY_KEPT_TASKS_LOST" if kept else "TASKS_LOST",
            entry.language,
            f"{entry.task}: {entry.metric} {went} from {entry.dense:.3f} to {entry.pruned:.3f}{grew}: of "
            f"{entry.samples:,} items {lost:,} were lost and {flipped - lost:,} won. {remedy}.",
            EvidencePart(
                figure=f"{entry.metric} of {entry.task}, pruned − dense",
                estimate=entry.difference,
                threshold=0.0,
                z=(flipped - 2 * lost) / math.sqrt(flipped),
            ),
        )


def _at_least(lost: int, flipped: int) -> float:
    """How likely so many of the items that flipped are lost if each is lost or won with the same chance."""

    def log_chance(count: int) -> float:
        ways = math.lgamma(flipped + 1) - math.lgamma(count + 1) - math.lgamma(flipped - count + 1)
        return ways - flipped * math.log(2)

    return sum(math.exp(log_chance(count)) for count in range(lost, flipped + 1))


def not_covered(affinity: AffinityPart, mix: Container[str]) -> Iterator[Verdict]:
    """The languages that the mix does not cover, which is known before the pruning.

    Args:
        affinity: Of the evaluated languages with the mix.
        mix: Languages with a weight in it.
    """
    for language, found in affinity.languages.items():
        if found.estimate < affinity.threshold:
            remedy = f"It has no {language}: add it, or a language close to it"
            if language in mix:
                remedy = "Raise its weight, or calibrate on text like that of the evaluation"
            yield _verdict(
                "MIX_DOES_NOT_COVER",
                language,
                f"The calibration mix covers {language} poorly: affinity {found.estimate:.3f}, where the mix's own "
                f"text has {affinity.of_mix:.3f} ± {affinity.spread:.3f}. {remedy}.",
                EvidencePart(
                    figure="affinity with the calibration mix",
                    estimate=found.estimate,
                    threshold=affinity.threshold,
                    interval=found.interval,
                    z=(found.estimate - affinity.of_mix) / affinity.spread if affinity.spread else None,
                ),
            )


def _not_calibrated(evaluation: Iterable[EvaluationLanguage]) -> Iterator[Verdict]:
    for entry in evaluation:
        if not entry.in_mix:
            yield _verdict(
                "NOT_CALIBRATED",
                entry.language,
                f"{entry.language} was evaluated but has no weight in the calibration mix: nothing was done to keep it"
                f" (perplexity {_times(entry)}).",
            )


def _within_noise(evaluation: Sequence[EvaluationLanguage]) -> Iterator[Verdict]:
    for entry in evaluation:
        bounds = entry.intervals and entry.intervals.perplexity_ratio
        if bounds and bounds[0] <= 1 <= bounds[1] and bounds[0] < bounds[1] and not _is_rough(entry):
            yield _verdict(
                "WITHIN_NOISE",
                entry.language,
                f"{entry.language}: the growth of its perplexity is within the noise, {_times(entry)} "
                f"(×{digits(bounds[0], 3)} to ×{digits(bounds[1], 3)}).",
                _ratio_evidence(entry, 1.0),
            )


def _too_small(evaluation: Sequence[EvaluationLanguage]) -> Iterator[Verdict]:
    for entry in evaluation:
        error = entry.log_growth_error
        if error is None:
            problem = f"only {entry.tokens:,} tokens of it were scored" if entry.tokens < MIN_SCORED_TOKENS else None
            if entry.documents is not None:
                problem = f"its {entry.documents:,} documents are too few for a confidence interval"
            evidence = None
        else:
            low, high = entry.intervals.perplexity_ratio if entry.intervals else (math.nan, math.nan)
            problem = f"its growth may be anything from ×{digits(low)} to ×{digits(high)}" if _is_rough(entry) else None
            evidence = _ratio_evidence(entry, 1.0)
        if problem:
            yield _verdict(
                "SAMPLE_TOO_SMALL",
                entry.language,
                f"The figures of {entry.language} are rough: {problem}. Raise evaluation.tokens_per_language, and give "
                "it more documents.",
                evidence,
            )


def _is_rough(entry: EvaluationLanguage) -> bool:
    """Whether the interval reaches far, in itself and beside the growth."""
    error = entry.log_growth_error
    return error is not None and NORMAL_975 * error > max(ROUGH, 0.5 * abs(math.log(entry.perplexity_ratio)))


def _few_tokens(calibration: Sequence[CalibrationLanguage], blocks: Sequence[BlockPart]) -> Iterator[Verdict]:
    widest = max((layer.shape[1] for block in blocks for layer in block.layers), default=0)
    for entry in calibration:
        if entry.weight > 0 and entry.tokens < widest:
            yield _verdict(
                "FEW_CALIBRATION_TOKENS",
                entry.language,
                f"{entry.language} was calibrated on {entry.tokens:,} tokens, and the widest layer has {widest:,} "
                "inputs: its statistics do not determine every weight. Raise calibration.samples.",
            )


def _nothing_trained(blocks: Sequence[BlockPart]) -> Iterator[Verdict]:
    trained = [block.reconstruction for block in blocks if block.reconstruction]
    if trained and not any(part.epoch for part in trained):
        message = "Training brought no block closer to the dense model: all weights are those from before. "
        message += "Lower reconstruction.learning_rate, raise calibration.samples, or leave reconstruction out."
        yield _verdict("NOTHING_TRAINED", None, message)


def _layer_notes(blocks: Sequence[BlockPart]) -> Iterator[Verdict]:
    noted = [layer for block in blocks for layer in block.layers if layer.notes]
    if noted:
        named = "; ".join(f"{layer.name}: {', '.join(layer.notes)}" for layer in noted[:NAMED_LAYERS])
        more = f"; and {len(noted) - NAMED_LAYERS} more" if len(noted) > NAMED_LAYERS else ""
        layers = "1 layer was" if len(noted) == 1 else f"{len(noted)} layers were"
        yield _verdict("LAYER_NOTES", None, f"{layers} pruned with difficulty: {named}{more}.")


def _times(entry: EvaluationLanguage) -> str:
    return f"×{digits(entry.perplexity_ratio)}"


def _ratio_evidence(entry: EvaluationLanguage, threshold: float) -> EvidencePart:
    error = entry.log_growth_error
    return EvidencePart(
        figure="growth of perplexity",
        estimate=entry.perplexity_ratio,
        threshold=threshold,
        interval=entry.intervals and entry.intervals.perplexity_ratio,
        z=math.log(entry.perplexity_ratio) / error if error else None,
    )


def _verdict(kind: str, language: str | None, message: str, evidence: EvidencePart | None = None) -> Verdict:
    return Verdict(kind=kind, language=language, message=message, evidence=evidence)
