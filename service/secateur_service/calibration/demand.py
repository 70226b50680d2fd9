"""How much text a job draws of each language, and what to ask for where there is less. Without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        least: sequences of each language without which the job cannot do what it is asked.
    """

    purpose: Literal["calibration", "evaluation"]
    languages: int
    sequences: int
    length: int
    least: int = 1

    @property
    def field(self) -> str:
        """The field that decides how much it is."""
        return "calibration.samples" if self.purpose == "calibration" else "evaluation.tokens_per_language"

    @property
    def tokens(self) -> int:
        """Tokens of each language."""
        return self.sequences * self.length

    def longest(self, fewest: int) -> int:
        """The longest sequence that leaves enough of them in so many tokens of each language; 0 if none does."""
        if fewest >= self.least * self.length:
            return self.length
        keeping = fewest // max(self.sequences, 1)
        length = keeping if keeping >= _SHORTEST_SEQUENCE else fewest // self.least
        return length if length >= _SHORTEST_SEQUENCE else 0

    def remedy(self, fewest: int, length: int) -> str:
        """Values that need no more than so many tokens of each language.

        Args:
            fewest: the tokens.
            length: of a sequence, at most the longest; 0 if there are too few tokens for any.
        """
        if not length:
            return ""
        sequences = fewest // length
        if self.purpose == "evaluation":
            tokens = min(sequences * length, self.tokens)
            if length == self.length:
                return f"set evaluation.tokens_per_language to {tokens}"
            if length == tokens:
                return f"set calibration.sequence_length and evaluation.tokens_per_language to {length}"
            return f"set calibration.sequence_length to {length} and evaluation.tokens_per_language to {tokens}"
        if length == self.length:
            return f"set calibration.samples to {sequences * self.languages}"
        if sequences >= self.sequences:
            return f"set calibration.sequence_length to {length}"
        return f"set calibration.sequence_length to {length} and calibration.samples to {sequences * self.languages}"


def evaluation_demand(most: int, least: int, languages: int, length: int) -> Demand:
    """That of an evaluation.

    Args:
        most: tokens of each language, in whole sequences.
        least: those without which nothing is evaluated; at least one sequence.
        languages: how many there are.
        length: tokens of each sequence.
    """
    return Demand("evaluation", languages, min(most // length, max(1, least // length)), length)


@dataclass(frozen=True)
class Lack:
    """The text that a purpose does not have.

    Attributes:
        demand: what it takes.
        found: tokens of each language that has too little.
        fewest: tokens that each of them has for sure.
        bound: what precedes the tokens where they are not counted.
        share: which part of the text it is.
        split: whether part of it is left to the other purpose.
    """

    demand: Demand
    found: Mapping[str, int]
    fewest: int
    bound: str = ""
    share: str = ""
    split: bool = False

    def told(self, length: int) -> str:
        """How much text there is, how much is needed, and what to do, with sequences of so many tokens."""
        demand = self.demand
        one = demand.languages == 1
        if demand.purpose == "evaluation":
            needed = f"evaluation takes {demand.tokens:,}{'' if one else ' of each language'}"
        else:
            each = "" if one else " for each language"
            needed = f"{demand.sequences:,} samples of {demand.length:,} tokens{each} take {demand.tokens:,}"
        remedy = demand.remedy(self.fewest, length)
        if remedy and self.bound:
            remedy += " (the text certainly suffices)"
        remedies = [remedy, "give more text"] if length == demand.length else ["give more text", remedy]
        if self.split:
            remedies.append("name another evaluation.corpus")
        *others, last = filter(None, remedies)
        todo = f"{', '.join(others)}, or {last}" if others else last
        return f"there are {self.bound}{named_amounts(self.found, 'tokens')}{self.share}, and {needed}; {todo}"


def too_little(lacks: Sequence[Lack]) -> dict[str, str]:
    """For each field at fault, what is lacking; all that is proposed can be done together.

    Both purposes have sequences of one length: it is one that each of them has enough text for.
    """
    length = min((lack.demand.longest(lack.fewest) for lack in lacks), default=0)
    return {lack.demand.field: lack.told(length) for lack in lacks}


def named_amounts(amounts: Mapping[str, int], unit: str) -> str:
    """How much there is of each language, or of the first ones of very many and how many more there are."""
    named = [f"{amount:,} of {in_words(spelling_of(language))}" for language, amount in amounts.items()]
    named[0] = named[0].replace(" of ", f" {unit} of ", 1)
    more = [f"too few of {len(named) - _NAMED_LANGUAGES} more"] if len(named) > _NAMED_LANGUAGES else []
    *others, last = [*named[:_NAMED_LANGUAGES], *more]
    return f"{', '.join(others)} and {last}" if others else last
