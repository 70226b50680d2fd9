"""What training blocks costs, without torch: see `pipeline.reconstruction`."""

from __future__ import annotations

HELD_OUT_EVERY = 8
"""Of the sequences of a language, every eighth is not trained on but judges."""


def training_operations(forward: float, epochs: int) -> float:
    """Floating-point operations of training a block.

    Args:
        forward: those of running all calibration text through it.
        epochs: how often it is trained on.
    """
    held_out = 1 / HELD_OUT_EVERY
    return forward * (3 * epochs * (1 - held_out) + (epochs + 1) * held_out)
