"""How much text a job draws of each language, and what to ask for where there is less. Without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from secateur._language_names import in_words
from secateur_service.calibration.languages import spelling_of

_SHORTEST_SEQUENCE = 16
"""Shorter sequences are not proposed: nearly all of their tokens would be seen without context."""
_NAMED_LANGUAGES = 24


@dataclass(frozen=True)
class Demand:
    """The text that a purpose takes.

    Attributes:
        purpose: what it is for.
        languages: how many there are.
        sequences: of each language.
        length: tokens of each sequence.
    """

    purpose: Literal["calibration", "evaluation"]
    languages: int
    sequences: int
    length: int

    @property
    def field(self) -> str:
        """The field that decides how much it is."""
        return "calibration.samples" if self.purpose == "calibration" else "evaluation.tokens_per_language"

    @property
    def tokens(self) -> int:
        """Tokens of each language."""
        return self.sequences * self.length

    def too_little(
        self, found: Mapping[str, int], fewest: int, *, bound: str = "", share: str = "", split: bool
    ) -> str:
        """How much text there is, how much is needed and what to do.

        Args:
            found: tokens of each language that has too little.
            fewest: tokens that each of them has for sure.
            bound: what precedes the tokens where they are not counted.
            share: which part of the text it is.
            split: whether part of it is left to the other purpose.
        """
        one = self.languages == 1
        if self.purpose == "evaluation":
            needed = f"evaluation takes {self.tokens:,}{'' if one else ' of each language'}"
        else:
            each = "" if one else " for each language"
            needed = f"{self.sequences:,} samples of {self.length:,} tokens{each} take {self.tokens:,}"
        remedies = [self.remedy(fewest), "give more text"]
        if split:
            remedies.append("name another evaluation.corpus")
        *others, last = filter(None, remedies)
        todo = f"{', '.join(others)}, or {last}" if others else last
        return f"there are {bound}{named_amounts(found, 'tokens')}{share}, and {needed}; {todo}"

    def remedy(self, fewest: int) -> str:
        """Values that need no more than so many tokens of each language; empty if there are too few for any."""
        sequences = fewest // self.length
        if self.purpose == "evaluation":
            if sequences:
                return f"set evaluation.tokens_per_language to {sequences * self.length}"
            if fewest >= _SHORTEST_SEQUENCE:
                return f"set calibration.sequence_length and evaluation.tokens_per_language to {fewest}"
            return ""
        if sequences:
            return f"set calibration.samples to {sequences * self.languages}"
        if (length := fewest // self.sequences) >= _SHORTEST_SEQUENCE:
            return f"set calibration.sequence_length to {length}"
        if fewest >= _SHORTEST_SEQUENCE:
            return f"set calibration.sequence_length to {fewest} and calibration.samples to {self.languages}"
        return ""


def named_amounts(amounts: Mapping[str, int], unit: str) -> str:
    """How much there is of each language, or of the first ones of very many and how many more there are."""
    named = [f"{amount:,} of {in_words(spelling_of(language))}" for language, amount in amounts.items()]
    named[0] = named[0].replace(" of ", f" {unit} of ", 1)
    more = [f"too few of {len(named) - _NAMED_LANGUAGES} more"] if len(named) > _NAMED_LANGUAGES else []
    *others, last = [*named[:_NAMED_LANGUAGES], *more]
    return f"{', '.join(others)} and {last}" if others else last
