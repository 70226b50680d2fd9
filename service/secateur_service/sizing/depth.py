"""How much text the search for removable blocks takes, and how much work. Imports no torch."""

from __future__ import annotations

from typing import Literal

Kind = Literal["calibrate", "head"]

DEPTH_TOKENS = 65_536
"""Of all languages together, at most, unless one sequence of each is more."""
SCORED_EVERY = 4
"""One sequence of so many is scored; nothing is fitted to it."""


def depth_sequences(length: int, languages: int) -> int:
    """Sequences of each language."""
    return max(1, DEPTH_TOKENS // (length * languages))


def search_operations(
    blocks: int, count: int, fitted: int, scored: int, forward: float, head: float, known: int | None = None
) -> dict[Kind, float]:
    """Floating-point operations by the kind of work.

    Args:
        blocks: blocks of the model.
        count: blocks to remove.
        fitted: tokens that something is fitted to.
        scored: tokens that are scored.
        forward: operations of a block for each token.
        head: operations of the head for each token.
        known: how many of the blocks to remove are known; None if they are searched for.
    """
    calibrate = heads = 0.0
    for left in range(blocks, blocks - count, -1):
        copies = left * (left - 1) / 2 if known is None else left / 2
        calibrate += (left * (fitted + scored) + copies * scored) * forward
        heads += (1 + (left if known is None else 1)) * scored * head
    return {"calibrate": calibrate, "head": heads}
