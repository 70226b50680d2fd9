"""Perplexity and bits per byte, from the losses of single tokens.

Text is scored in non-overlapping windows, each starting the way the tokenizer starts a text (`calibration.packing`).
A token is scored if it stands for text and has a token before it in its window. Tokens that stand for no text
(beginning, end, a template) are context: they count in neither the nats nor the tokens. Such tokens are nearly free: if
they counted, a figure would depend on how a corpus is cut into documents, and would understate what a language lost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

MAX_NATS = 700.0  # exp of more overflows what JSON can hold


@dataclass(frozen=True)
class Losses:
    """Sums over the scored tokens of one language.

    Attributes:
        nats: sum of the cross-entropies.
        tokens: number of scored tokens.
        bytes: UTF-8 bytes of text that the scored tokens stand for.
        documents: the same three for every document, D×3 in float64; None where they were not kept apart.
        beginnings: the first two for the first tokens of every window, as many as `windows.lengths` says, N×K×2 in
            float64; None where they were not kept apart.
    """

    nats: float
    tokens: int
    bytes: int
    documents: Tensor | None = field(default=None, compare=False, repr=False)
    beginnings: Tensor | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Likeness:
    """How like the output model's predictions are to the dense model's: sums over the scored tokens of one language.

    Attributes:
        nats: sum of KL(dense ‖ output) of the predictions.
        agreed: tokens for which both models find the same most probable.
        tokens: number of scored tokens.
        documents: the first two for every document, D×2 in float64.
    """

    nats: float
    agreed: int
    tokens: int
    documents: Tensor = field(compare=False, repr=False)


def perplexity(nats: float, tokens: int) -> float:
    """exp(nats / tokens), capped at e⁷⁰⁰: beyond that a model is lost in any case."""
    return math.exp(min(nats / tokens, MAX_NATS))


def bits_per_byte(nats: float, size_bytes: int) -> float:
    """Nats / (ln 2 · bytes): unlike perplexity, it can be compared between languages and tokenizers."""
    return nats / (math.log(2) * size_bytes)
