"""Scores: how much a weight matters. The smallest of a row go."""

from __future__ import annotations

from torch import Tensor


def magnitude(weight_MN: Tensor) -> Tensor:
    """|W_ij|: no data needed. The control that every method has to beat."""
    return weight_MN.abs()


def wanda(weight_MN: Tensor, mean_squares_N: Tensor) -> Tensor:
    """|W_ij| · ‖X_:j‖₂ (Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", 2306.11695).

    Args:
        weight_MN: m×n.
        mean_squares_N: mean square of each input feature over the mix; a common factor does not change the order.
    """
    return weight_MN.abs() * mean_squares_N.sqrt().to(weight_MN.dtype)
