"""The first sentences of a report, for its page, its card and the command line: what the languages of the mix lost."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from pydantic import Field

from secateur._bands import Band, band_in_words, band_of, growth_digits
from secateur._language_names import in_words
from secateur._text import listed
from secateur_service.evaluation.parts import EvaluationLanguage, Part, Verdict

_NAMED_LANGUAGES = 6
NO_TASKS = (
    "No tasks were measured. Perplexity says what the model still predicts, not what it can still do: tasks that take "
    "knowledge can fall while it hardly moves (evaluation.tasks measures them)."
)


class HeadlinePart(Part):
    """What the languages lost that the model was pruned for."""

    languages: tuple[str, ...] = Field(
        description="those that it is about: evaluated languages of the mix, or all evaluated ones if there are none"
    )
    perplexity_ratio: float = Field(description="geometric mean of their growth")
    band: Band = Field(description="of that growth: see `evaluation`")
    reservation: str | None = Field(
        default=None, description="why the figures say little of what was lost; null if nothing is known against them"
    )
    sentence: str
    also_measured: str | None = Field(description="the other languages; null if there are none")
    caveat: str | None = Field(description="what these figures do not show; null if tasks were measured")


def headline_of(
    evaluation: Sequence[EvaluationLanguage], verdicts: Sequence[Verdict], *, tasked: bool, window_tokens: int
) -> HeadlinePart | None:
    """The headline; None if nothing was evaluated.

    Args:
        evaluation: evaluated languages.
        verdicts: what was found.
        tasked: whether tasks were measured.
        window_tokens: length of the windows that they were evaluated in.
    """
    about = [entry for entry in evaluation if entry.in_mix] or list(evaluation)
    if not about:
        return None
    rest = [entry for entry in evaluation if entry not in about]
    behind = {verdict.language for verdict in verdicts if verdict.kind == "LANGUAGE_LEFT_BEHIND"}
    ratio = math.exp(sum(math.log(entry.perplexity_ratio) for entry in about) / len(about))
    return HeadlinePart(
        languages=tuple(entry.language for entry in about),
        perplexity_ratio=ratio,
        band=band_of(ratio),
        reservation=_reservation(verdicts, window_tokens),
        sentence=_sentence(about, ratio, behind),
        also_measured=f"Also measured, and not in the mix: {_each(rest)}." if rest else None,
        caveat=None if tasked else NO_TASKS,
    )


def _reservation(verdicts: Sequence[Verdict], window_tokens: int) -> str | None:
    """What makes the figures themselves doubtful."""
    doubts = []
    if any(verdict.kind == "UNTRAINED_MODEL" for verdict in verdicts):
        doubts.append("the dense model predicts no better than chance")
    if any(verdict.kind == "WINDOWS_TOO_LONG" for verdict in verdicts):
        doubts.append(f"the dense model is worse in windows of {window_tokens:,} tokens than it is in shorter ones")
    if others := {str(verdict.language) for verdict in verdicts if verdict.kind == "OTHER_LANGUAGE"}:
        doubts.append(
            f"text of {listed([in_words(language) for language in sorted(others)])} seems to be in another language"
        )
    return f"These figures say little of what was lost: {listed(doubts)}. The verdicts say more." if doubts else None


def _sentence(about: Sequence[EvaluationLanguage], ratio: float, behind: Collection[str | None]) -> str:
    grew = f"grew ×{growth_digits(ratio)}"
    of_mix = " of the mix" if about[0].in_mix else ", none of which is in the mix,"
    if len(about) == 1:
        told = in_words(about[0].language)
        told = told if about[0].in_mix else f"{told}, which is not in the mix,"
        return f"The perplexity of {told} {grew}: {band_in_words(ratio)}."
    sentence = f"The perplexity of the {len(about)} languages{of_mix} {grew} on average: {band_in_words(ratio)}"
    worst = max(about, key=lambda entry: entry.perplexity_ratio)
    left = [entry for entry in about if entry.language in behind]
    if left:
        return f"{sentence}, and not evenly: {_each(left)}."
    if band_of(worst.perplexity_ratio) != band_of(ratio):
        return f"{sentence}; most of all {_each([worst])}."
    return f"{sentence}; at worst {in_words(worst.language)} ×{growth_digits(worst.perplexity_ratio)}."


def _each(entries: Sequence[EvaluationLanguage]) -> str:
    told = [
        f"{in_words(entry.language)} ×{growth_digits(entry.perplexity_ratio)} ({band_in_words(entry.perplexity_ratio)})"
        for entry in entries[:_NAMED_LANGUAGES]
    ]
    more = len(entries) - len(told)
    return listed([*told, *([f"{more} more"] if more else [])])
