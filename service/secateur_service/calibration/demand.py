"""How much text a job draws of each language, and what to ask for where there is less. Without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_SHORTEST_SEQUENCE = 16
"""Shorter sequences are not proposed: nearly all of their tokens would be seen without context."""


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

    def remedy(self, fewest: int) -> str:
        """Values that need no more than so many tokens of each language; empty if there are too few for any."""
        sequences = fewest // self.length
        if self.purpose == "evaluation":
            if sequences:
                return f"use at most evaluation.tokens_per_language {sequences * self.length}"
            if fewest >= _SHORTEST_SEQUENCE:
                return f"use at most calibration.sequence_length {fewest} and evaluation.tokens_per_language {fewest}"
            return ""
        if sequences:
            return f"use at most calibration.samples {sequences * self.languages}"
        if (length := fewest // self.sequences) >= _SHORTEST_SEQUENCE:
            return f"use at most calibration.sequence_length {length}"
        if fewest >= _SHORTEST_SEQUENCE:
            return f"use at most calibration.sequence_length {fewest} with calibration.samples {self.languages}"
        return ""
