"""Verdicts: what a report's figures mean, in words, by the following rules.

OTHER_LANGUAGE
    Less than `SAME_LANGUAGE_SHARE` of the documents seem to be in their claimed language.
LIMIT_EXCEEDED
    The language's bits per byte grew more than the specification allows.
LANGUAGE_LOST
    The language's perplexity grew at least `LOST_RATIO` times: the model has all but forgotten it.
LANGUAGE_LEFT_BEHIND
    The language's perplexity grew at least `LEFT_BEHIND_FACTOR` times as much as the geometric mean of the other
    languages' growth. Needs two languages; the mean is geometric because growth multiplies. Between languages of one
    mix, benchmarks/languages.py finds up to 1.11 times, and 1.27 for a language with English calibrated in its place.
NOT_CALIBRATED
    The language was evaluated but has no weight in the mix: what it kept, it kept by accident.
SAMPLE_TOO_SMALL
    Fewer than `MIN_SCORED_TOKENS` tokens of the language were scored: its figures are rough.
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
from collections.abc import Iterator, Mapping, Sequence

from secateur_service.evaluation.parts import BlockPart, CalibrationLanguage, EvaluationLanguage, Verdict

SAME_LANGUAGE_SHARE = 0.5
LOST_RATIO = 10.0
LEFT_BEHIND_FACTOR = 1.2
MIN_SCORED_TOKENS = 1700  # 2,048 tokens of short sentences leave some 1,800 to score
NAMED_LAYERS = 3
_MOST_DIGITS = 1e6


def judge(
    calibration: Sequence[CalibrationLanguage],
    evaluation: Sequence[EvaluationLanguage],
    blocks: Sequence[BlockPart],
    *,
    inverts: bool,
    prunes: bool = True,
    trims: bool = False,
    limits: Mapping[str, float] | None = None,
) -> Iterator[Verdict]:
    """All verdicts, the most serious kinds first, languages in the order in which they were evaluated.

    Args:
        calibration: Languages of the mix.
        evaluation: Evaluated languages.
        blocks: Pruned blocks.
        prunes: Whether weights were pruned, and parts were not only removed.
        trims: Whether rows of the vocabulary were removed.
        limits: The share by which bits per byte may grow, by language.
        inverts: Whether the update of the kept weights inverts second moments.
    """
    yield from _other_language("calibration", calibration)
    yield from _other_language("evaluation", evaluation)
    yield from _exceeded(evaluation, limits or {})
    yield from _lost(evaluation, prunes=prunes)
    yield from _left_behind(evaluation, trims=trims)
    yield from _not_calibrated(evaluation)
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


def _exceeded(evaluation: Sequence[EvaluationLanguage], limits: Mapping[str, float]) -> Iterator[Verdict]:
    for entry in evaluation:
        limit = limits.get(entry.language)
        if limit is not None and entry.growth > limit:
            yield _verdict(
                "LIMIT_EXCEEDED",
                entry.language,
                f"{entry.language}: bits per byte grew by {entry.growth:.2%}, more than the limit of {limit:.2%}.",
            )


def _lost(evaluation: Sequence[EvaluationLanguage], *, prunes: bool) -> Iterator[Verdict]:
    remedy = "Remove less, or calibrate on the language and keep it, if the model has to serve it."
    if prunes:
        remedy = "Prune less, or choose a method that corrects the weights it keeps."
    for entry in evaluation:
        if entry.perplexity_ratio >= LOST_RATIO:
            yield _verdict(
                "LANGUAGE_LOST",
                entry.language,
                f"The model has all but forgotten {entry.language}: its perplexity grew {_times(entry)}. {remedy}",
            )


def _left_behind(evaluation: Sequence[EvaluationLanguage], *, trims: bool) -> Iterator[Verdict]:
    for entry in evaluation:
        others = [math.log(other.perplexity_ratio) for other in evaluation if other is not entry]
        if not others:
            continue
        mean = math.exp(sum(others) / len(others))
        if entry.perplexity_ratio >= LEFT_BEHIND_FACTOR * mean:
            remedy = "raise its weight in the mix" if entry.in_mix else "add it to the calibration mix"
            if trims:
                remedy += ", and keep more rows of the vocabulary or raise its weight in shrink.vocabulary.weights"
            yield _verdict(
                "LANGUAGE_LEFT_BEHIND",
                entry.language,
                f"{entry.language} is left behind: its perplexity grew {_times(entry)}, that of the other languages "
                f"×{mean:.2f} on average. If its speakers matter, {remedy}.",
            )


def _not_calibrated(evaluation: Sequence[EvaluationLanguage]) -> Iterator[Verdict]:
    for entry in evaluation:
        if not entry.in_mix:
            yield _verdict(
                "NOT_CALIBRATED",
                entry.language,
                f"{entry.language} was evaluated but has no weight in the calibration mix: nothing was done to keep it"
                f" (perplexity {_times(entry)}).",
            )


def _too_small(evaluation: Sequence[EvaluationLanguage]) -> Iterator[Verdict]:
    for entry in evaluation:
        if entry.tokens < MIN_SCORED_TOKENS:
            yield _verdict(
                "SAMPLE_TOO_SMALL",
                entry.language,
                f"Only {entry.tokens:,} tokens of {entry.language} were scored; below {MIN_SCORED_TOKENS:,} the figures"
                " are rough. Raise evaluation.tokens_per_language.",
            )


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
    return (
        f"×{entry.perplexity_ratio:.2f}" if entry.perplexity_ratio < _MOST_DIGITS else f"×{entry.perplexity_ratio:.2e}"
    )


def _verdict(kind: str, language: str | None, message: str) -> Verdict:
    return Verdict(kind=kind, language=language, message=message)
