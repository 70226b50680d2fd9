"""Perplexity and bits per byte, from the losses of single tokens.

Text is scored in non-overlapping windows, each starting the way the tokenizer starts a text (`calibration.packing`).
A token is scored if it stands for text and has a token before it in its window. Tokens that stand for no text
(beginning, end, a template) are context: they count in neither the nats nor the tokens. Such tokens are nearly free: if
they counted, a figure would depend on how a corpus is cut into documents, and would understate what a language lost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
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
    """

    nats: float
    tokens: int
    bytes: int


def sum_losses(losses: list[Tensor], token_bytes: Tensor, is_text: Tensor) -> Losses:
    """Sum the losses of one language.

    Args:
        losses: B×(S−1) nats per batch, together N×(S−1); a window's first token has none.
        token_bytes: N×S bytes per token.
        is_text: N×S, whether a token stands for text.

    Raises:
        FloatingPointError: a loss is NaN or infinite.
    """
    scored = is_text[:, 1:]
    nats = sum(
        float(batch[mask].sum())
        for batch, mask in zip(losses, scored.split([len(batch) for batch in losses]), strict=True)
    )
    if not math.isfinite(nats):
        raise FloatingPointError("losses that are not finite")
    return Losses(nats, int(scored.sum()), int(token_bytes[:, 1:][scored].sum()))


def perplexity(nats: float, tokens: int) -> float:
    """exp(nats / tokens), capped at e⁷⁰⁰: beyond that a model is lost in any case."""
    return math.exp(min(nats / tokens, MAX_NATS))


def bits_per_byte(nats: float, size_bytes: int) -> float:
    """Nats / (ln 2 · bytes): unlike perplexity, it can be compared between languages and tokenizers."""
    return nats / (math.log(2) * size_bytes)
