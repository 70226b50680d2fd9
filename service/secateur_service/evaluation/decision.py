"""Whether a result may ship: what its report says about the limits that its specification names.

A limit is the share by which a language's bits per byte may grow. A language passes if its whole confidence interval is
within the limit, and fails if the measured growth is beyond it, whatever the interval: such a job ends as
LIMIT_EXCEEDED. In between, other text of the language might have been beyond the limit, and the answer is that this
evaluation cannot tell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from secateur_service.evaluation.parts import EvaluationLanguage, Interval, Part

Answer = Literal["PASS", "FAIL", "CANNOT_TELL"]


class LanguageDecision(Part):
    """The answer for one language that has a limit."""

    language: str
    limit: float = Field(description="share by which bits per byte may grow")
    growth: float = Field(description="share by which they grew")
    interval: Interval | None = Field(description="of the growth, with 95 % confidence; null if it is not known")
    answer: Answer
    needed_tokens: int | None = Field(
        description="with about so many scored tokens the interval would be within the limit if the growth stayed the "
        "same; null where the answer is clear, or nothing is known of the interval"
    )


class DecisionPart(Part):
    """Whether the result may ship as far as its limits say."""

    answer: Answer | None = Field(description="the worst of the languages' answers; null if there are no limits")
    sentence: str
    languages: tuple[LanguageDecision, ...] = ()


def decide(evaluation: Sequence[EvaluationLanguage], limits: Mapping[str, float]) -> DecisionPart:
    """The answer to "may this ship?".

    Args:
        evaluation: evaluated languages.
        limits: by language.
    """
    languages = [_of_language(entry, limits[entry.language]) for entry in evaluation if entry.language in limits]
    if not languages:
        sentence = (
            "Whether it may ship depends on how much a language may lose: limits.languages says so, and the service "
            "then checks it."
        )
        return DecisionPart(answer=None, sentence=sentence)
    by_answer: dict[Answer, list[LanguageDecision]] = {"FAIL": [], "CANNOT_TELL": [], "PASS": []}
    for found in languages:
        by_answer[found.answer].append(found)
    sentences = []
    if failed := by_answer["FAIL"]:
        sentences.append(f"This may not ship for {_listed(failed)}: {_told(failed)}.")
    if unclear := by_answer["CANNOT_TELL"]:
        sentences.append(
            f"Whether it may ship for {_listed(unclear)} cannot be told: {_told(unclear)}. {_wanted(unclear)}"
        )
    if passed := by_answer["PASS"]:
        sentences.append(f"It is within the limits for {_listed(passed)}: {_told(passed)}.")
    worst = next(answer for answer, found in by_answer.items() if found)
    return DecisionPart(answer=worst, sentence=" ".join(sentences), languages=tuple(languages))


def _of_language(entry: EvaluationLanguage, limit: float) -> LanguageDecision:
    interval = entry.intervals.bits_per_byte_growth if entry.intervals else None
    answer: Answer = "CANNOT_TELL"
    needed = None
    if entry.growth > limit:
        answer = "FAIL"
    elif interval is not None and interval[1] <= limit:
        answer = "PASS"
    elif interval is not None and entry.growth < limit:
        # The width falls with the square root of the number of tokens.
        needed = _rounded_up(entry.tokens * ((interval[1] - entry.growth) / (limit - entry.growth)) ** 2)
    return LanguageDecision(
        language=entry.language,
        limit=limit,
        growth=entry.growth,
        interval=interval,
        answer=answer,
        needed_tokens=needed,
    )


def _rounded_up(value: float) -> int:
    """To two digits."""
    unit = 10 ** max(0, math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit) * unit


def _listed(found: Sequence[LanguageDecision]) -> str:
    names = [each.language for each in found]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _told(found: Sequence[LanguageDecision]) -> str:
    parts = []
    for each in found:
        between = f" ({each.interval[0]:+.2%} to {each.interval[1]:+.2%})" if each.interval else ""
        subject = "bits per byte" if len(found) == 1 else each.language
        parts.append(f"{subject} {each.growth:+.2%}{between}, limit {each.limit:+.2%}")
    return "; ".join(parts)


def _wanted(found: Sequence[LanguageDecision]) -> str:
    needed = [each.needed_tokens for each in found]
    known = [count for count in needed if count is not None]
    if len(known) < len(needed):
        return "Give the evaluation more documents (evaluation.tokens_per_language, evaluation.corpus)."
    return f"About {max(known):,} tokens would settle it if the growth stays the same (evaluation.tokens_per_language)."
