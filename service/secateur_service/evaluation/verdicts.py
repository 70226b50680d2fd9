"""Verdicts: what a report's figures mean, in words, by the following rules.

UNTRAINED_MODEL
    In every language the dense model's perplexity is at least `CHANCE` times the number of its tokens: it predicts
    hardly better than one that has learnt nothing, for which all tokens are equally likely. Random weights are what
    loaders put, with no more than a warning, in place of tensors that they do not find.
OTHER_LANGUAGE
    Less than `SAME_LANGUAGE_SHARE` of the documents seem to be in their claimed language.
LIMIT_EXCEEDED
    The language's bits per byte grew, or a metric of a task lost, more than the specification allows.
LANGUAGE_LOST
    The language's perplexity grew at least `LOST_RATIO` times: the model has all but forgotten it.
LANGUAGE_DAMAGED
    The perplexity of a language of the mix grew at least `DAMAGED_RATIO` times, from where on `bands` calls a loss
    heavy, and that is no chance of the documents drawn: of reports in which no language lost as much, at most
    `FALSE_ALARMS` say so of any. The level is divided by the number of languages of the mix (Bonferroni). Languages
    that are lost have their own verdict.
LANGUAGE_LEFT_BEHIND
    The language's perplexity grew at least `LEFT_BEHIND_FACTOR` times as much as the geometric mean of the growth of
    the other languages of the mix (of all others if there are none), and that is no chance of the documents drawn: of
    reports in which all lost the same, at most `FALSE_ALARMS` say so of any language. The standard errors of the
    logarithms are those of the languages' intervals, and the level is divided by the number of languages (Bonferroni).
    Needs two languages; the mean is geometric because growth multiplies. Between languages of one mix,
    benchmarks/languages.py finds up to 1.11 times, and 1.27 for a language with English calibrated in its place.
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
WINDOWS_TOO_LONG
    The dense model's perplexity is at least `CONTEXT_FACTOR` times as high in the second half of the windows as in the
    first, and its 95 % confidence interval excludes 1: of models that make use of their context, at most `FALSE_ALARMS`
    are called so. See `windows`.
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
    Layers whose update did not work as specified and was repaired: a factorisation needed more damping.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Sequence

from secateur._bands import SLIGHT
from secateur._language_names import in_words
from secateur._task_loss import loss_in_words, task_loss
from secateur._text import digits
from secateur_service.evaluation import growth_verdicts
from secateur_service.evaluation.block_parts import BlockPart
from secateur_service.evaluation.decision import (
    DecisionPart,
    LanguageDecision,
    TaskDecision,
    settling,
    settling_items,
)
from secateur_service.evaluation.growth_verdicts import FALSE_ALARMS, times
from secateur_service.evaluation.language_parts import AffinityPart
from secateur_service.evaluation.parts import (
    CalibrationLanguage,
    EvaluationLanguage,
    EvidencePart,
    TaskPart,
    Verdict,
)
from secateur_service.evaluation.window_parts import ContextPart

CHANCE = 0.5
SAME_LANGUAGE_SHARE = 0.5
KEPT_RATIO = SLIGHT
CONTEXT_FACTOR = 1.02
NAMED_LAYERS = 3
NAMED_LANGUAGES = 3


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
    context: ContextPart | None = None,
    positions: int | None = None,
    rows: int | None = None,
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
        context: How the dense model predicts along its windows, if that is known.
        rows: Tokens in the vocabulary of the dense model.
        positions: The longest sequence that the dense model allows, if its configuration says so.
    """
    if rows:
        yield from _untrained(evaluation, rows)
    yield from _other_language("calibration", calibration)
    yield from _other_language("evaluation", evaluation)
    if context:
        yield from _windows_too_long(context, positions)
    if decision:
        yield from _exceeded(decision)
        yield from _unclear(decision)
    remedy = _remedy(inverts=inverts, prunes=prunes, trims=trims)
    yield from growth_verdicts.lost(evaluation, remedy)
    yield from growth_verdicts.damaged(evaluation, remedy)
    yield from _tasks_lost(tasks, evaluation)
    mix = {entry.language for entry in calibration if entry.weight > 0}
    yield from growth_verdicts.left_behind(evaluation, trims=trims, mixes=len(mix) > 1)
    uncovered = set()
    if affinity is not None:
        for verdict in not_covered(affinity, mix):
            uncovered.add(verdict.language)
            yield verdict
    yield from _not_calibrated(entry for entry in evaluation if entry.language not in uncovered)
    yield from growth_verdicts.within_noise(evaluation)
    yield from growth_verdicts.too_small(evaluation)
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
                f"The {purpose} text of {in_words(entry.language)} seems to be in another language: of "
                f"{found.documents} documents {found.other_share:.0%} read like {in_words(found.other)}, "
                f"{found.share:.0%} like {entry.language}. Look at the corpus.",
            )


def _untrained(evaluation: Sequence[EvaluationLanguage], rows: int) -> Iterator[Verdict]:
    if not evaluation:
        return
    best = min(evaluation, key=lambda entry: entry.dense_perplexity)
    if best.dense_perplexity < CHANCE * rows:
        return
    yield _verdict(
        "UNTRAINED_MODEL",
        None,
        f"The dense model seems to be untrained: its perplexity is {digits(best.dense_perplexity)} even in "
        f"{best.language}, where it is lowest, and guessing among its {rows:,} tokens has {rows:,}. A checkpoint has "
        "random weights if its model was loaded with a class whose names differ from those in the file: look for "
        "warnings of missing tensors where it was saved.",
        EvidencePart(
            figure="lowest perplexity of the dense model, relative to the number of tokens in its vocabulary",
            estimate=best.dense_perplexity / rows,
            threshold=CHANCE,
        ),
    )


def _windows_too_long(context: ContextPart, positions: int | None) -> Iterator[Verdict]:
    if context.interval is None or context.growth < CONTEXT_FACTOR or context.interval[0] <= 1:
        return
    length, better = context.lengths[0], context.sensible_length
    low, high = context.interval
    told = (
        f"The windows are longer than the dense model can use: its perplexity in the second half of their {length:,} "
        f"tokens is ×{digits(context.growth)} (×{digits(low)} to ×{digits(high)}) that in the first, where it has less "
        "context. It seems to have been trained on shorter texts"
    )
    if positions and positions >= length:
        told += f", although its config.json allows {positions:,} positions"
    if better < length:
        at = context.lengths.index(better)
        falls = ", ".join(
            f"from {digits(found.perplexity[0])} to {digits(found.perplexity[at])} ({name})"
            for name, found in list(context.languages.items())[:NAMED_LANGUAGES]
        )
        told += f". Set calibration.sequence_length to {better}: the dense model's perplexity then falls {falls}"
    yield _verdict(
        "WINDOWS_TOO_LONG",
        None,
        told + ".",
        EvidencePart(
            figure="perplexity of the dense model in the second half of the windows, relative to the first",
            estimate=context.growth,
            threshold=CONTEXT_FACTOR,
            interval=context.interval,
        ),
    )


def _remedy(*, inverts: bool, prunes: bool, trims: bool) -> str:
    """What helps a language that lost much."""
    if trims or not prunes:
        return "Remove less, or calibrate on the language and keep it, if the model has to serve it."
    if inverts:
        return "Prune less, calibrate on more text, or train the blocks (reconstruction)."
    return "Prune less, or choose a method that corrects the weights it keeps (pruning.preset: best)."


def _exceeded(decision: DecisionPart) -> Iterator[Verdict]:
    for found in decision.languages:
        if found.answer == "FAIL":
            yield _verdict(
                "LIMIT_EXCEEDED",
                found.language,
                f"{in_words(found.language)}: bits per byte grew by {found.growth:.2%}, more than the limit of "
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
                f"{in_words(found.language)}: bits per byte grew by {found.growth:.2%}, within the limit of "
                f"{found.limit:.2%}, but in all text of the language it {reach}. {settling([found])}",
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
                f"The calibration mix covers {in_words(language)} poorly: affinity {found.estimate:.3f}, where the "
                f"mix's own text has {affinity.of_mix:.3f} ± {affinity.spread:.3f}. {remedy}.",
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
                f"{in_words(entry.language)} was evaluated but has no weight in the calibration mix: nothing was done "
                f"to keep it (perplexity {times(entry)}).",
            )


def _few_tokens(calibration: Sequence[CalibrationLanguage], blocks: Sequence[BlockPart]) -> Iterator[Verdict]:
    widest = max((layer.shape[1] for block in blocks for layer in block.layers), default=0)
    for entry in calibration:
        if entry.weight > 0 and entry.tokens < widest:
            yield _verdict(
                "FEW_CALIBRATION_TOKENS",
                entry.language,
                f"{in_words(entry.language)} was calibrated on {entry.tokens:,} tokens, and the widest layer has "
                f"{widest:,} inputs: its statistics do not determine every weight. Raise calibration.samples.",
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
        layers = "1 layer" if len(noted) == 1 else f"{len(noted)} layers"
        message = f"The update of {layers} did not work as specified and was repaired: {named}{more}. "
        yield _verdict("LAYER_NOTES", None, message + "Raise calibration.samples.")


def _verdict(kind: str, language: str | None, message: str, evidence: EvidencePart | None = None) -> Verdict:
    return Verdict(kind=kind, language=language, message=message, evidence=evidence)
