"""Perplexity and bits per byte, from the losses of single tokens.

Text is scored in non-overlapping windows: of each window every token but the first has a loss, given the tokens
before it in the window. Losses of tokens that stand for no text (the end of a document) count; their bytes are none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

MAX_NATS = 700.0  # exp of more is not a number that JSON can hold


@dataclass(frozen=True)
class Losses:
    """Sums over the scored tokens of one language.

    Attributes:
        nats: sum of the cross-entropies.
        tokens: number of scored tokens.
        bytes: UTF-8 bytes of text that the scored tokens stand for.
    """

    nats: float
    tokens: int
    bytes: int


def sum_losses(losses: list[Tensor], token_bytes: Tensor) -> Losses:
    """Sum the losses of one language.

    Args:
        losses: B×(S−1) nats per batch, together N×(S−1).
        token_bytes: N×S bytes per token; the first of each window is not scored.

    Raises:
        FloatingPointError: a loss is NaN or infinite.
    """
    nats = sum(float(batch.sum()) for batch in losses)
    if not math.isfinite(nats):
        raise FloatingPointError("losses that are not finite")
    return Losses(nats, sum(batch.numel() for batch in losses), int(token_bytes[:, 1:].sum()))


def perplexity(nats: float, tokens: int) -> float:
    """exp(nats / tokens), cut off at e⁷⁰⁰: beyond that a model is lost in any case."""
    return math.exp(min(nats / tokens, MAX_NATS))


def bits_per_byte(nats: float, size_bytes: int) -> float:
    """Nats / (ln 2 · bytes): unlike perplexity it compares between languages and tokenizers."""
    return nats / (math.log(2) * size_bytes)
