"""Perplexity and bits per byte, from the losses of single tokens.

Text is scored in non-overlapping windows: of each window every token but the first has a loss, given the tokens
before it in the window. Perplexity is exp(Σ loss / number of scored tokens). Bits per byte is
Σ loss / (ln 2 · bytes of the scored tokens); unlike perplexity it compares between languages and tokenizers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


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

    @property
    def perplexity(self) -> float:
        """exp(nats / tokens)."""
        return math.exp(self.nats / self.tokens)

    @property
    def bits_per_byte(self) -> float:
        """nats / (ln 2 · bytes)."""
        return self.nats / (math.log(2) * self.bytes)


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
