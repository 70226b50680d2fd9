"""The part of a report that says whether the dense model makes use of the context that windows give it."""

from __future__ import annotations

import math

from pydantic import Field

from secateur_service.evaluation.parts import Interval, Part

ENOUGH = 1.05
"""A length of windows will do if no shorter one has a perplexity that is lower by more than this factor."""


class LanguageContextPart(Part):
    """How the dense model predicts one language along its windows."""

    first_half: float = Field(description="perplexity of the tokens in the first half of their window")
    second_half: float = Field(description="of those in the second half")
    perplexity: tuple[float, ...] = Field(
        description="for each of the lengths, that of the first so many tokens of each window: what windows of that "
        "length would give"
    )


class ContextPart(Part):
    """Whether the dense model predicts better, as it should, where it has more context."""

    lengths: tuple[int, ...] = Field(description="of a window, its half, its quarter and so on down to 32 tokens")
    growth: float = Field(
        description="perplexity in the second half of the windows / in the first, the geometric mean of the languages; "
        "1 or less if the model makes use of the context"
    )
    interval: Interval | None = Field(
        description="of the growth, with 95 % confidence, from the differences between the halves of each window; null "
        "with too few windows"
    )
    languages: dict[str, LanguageContextPart]

    @property
    def sensible_length(self) -> int:
        """The longest of the lengths with about the lowest perplexity, in the geometric mean over the languages."""
        means = [
            math.exp(sum(map(math.log, found)) / len(found))
            for found in zip(*(entry.perplexity for entry in self.languages.values()), strict=True)
        ]
        return next(length for length, mean in zip(self.lengths, means, strict=True) if mean <= ENOUGH * min(means))
