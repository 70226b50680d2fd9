"""Scores: how much a weight matters. The smallest scores within a row, or the whole layer, are pruned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from secateur_service.pruning.elementwise import zero_where
from secateur_service.pruning.patterns import Target
from secateur_service.pruning.ranks import ALONE, Ranks, Rows

_TINY = 1e-30  # a row or column of zeros has no relative importance


def magnitude(weight_MN: Tensor) -> Tensor:
    """|W_ij|: needs no data. The baseline that every method has to beat."""
    return weight_MN.abs()


def wanda(weight_MN: Tensor, mean_squares_N: Tensor) -> Tensor:
    """|W_ij| · ‖X_:j‖₂ (Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", 2306.11695).

    Args:
        weight_MN: m×n.
        mean_squares_N: mean square of each input feature over the mix; a common factor leaves the order unchanged.
    """
    return weight_MN.abs().mul_(mean_squares_N.sqrt().to(weight_MN.dtype))


def wanda_multilingual(
    weight_MN: Tensor, mean_squares: Mapping[str, Tensor], mix: Mapping[str, float], spread: float
) -> Tensor:
    """|W_ij| · (√Σ_ℓ w_ℓ a_ℓj² + κ · σ_j): Wanda, favouring inputs that languages use differently. Ours.

    a_ℓj is the root mean square of input j in language ℓ, σ_j its standard deviation over the mix. With one language,
    or with κ = 0, it is Wanda.

    Args:
        weight_MN: m×n.
        mean_squares: a_ℓ² for every language: n each.
        mix: w_ℓ for every language, summing to one.
        spread: κ.
    """
    squares_LN = torch.stack([mean_squares[language] for language in mix])
    share_L1 = torch.tensor(list(mix.values()), dtype=squares_LN.dtype, device=squares_LN.device)[:, None]
    norms_LN = squares_LN.sqrt()
    mean_N = (share_L1 * norms_LN).sum(0)
    deviation_N = (share_L1 * (norms_LN - mean_N).square()).sum(0).sqrt()
    importance_N = (share_L1 * squares_LN).sum(0).sqrt() + spread * deviation_N
    return weight_MN.abs().mul_(importance_N.to(weight_MN.dtype))


def ria(weight_MN: Tensor, mean_squares_N: Tensor) -> Tensor:
    """(|W_ij| / Σ_i |W_ij| + |W_ij| / Σ_j |W_ij|) · ‖X_:j‖₂^½: how much a weight matters within its row and column.

    Zhang et al., "Plug-and-Play: An Efficient Post-training Pruning Method for Large Language Models", ICLR 2024,
    relative importance and activations. Compared over the whole matrix, as in the paper.

    Args:
        weight_MN: m×n.
        mean_squares_N: mean square of each input feature over the mix; a common factor leaves the order unchanged.
    """
    size = weight_MN.abs()
    columns, rows = size.sum(0, keepdim=True), size.sum(1, keepdim=True)
    relative = size / columns.clamp_min(_TINY) + size / rows.clamp_min(_TINY)
    return relative * mean_squares_N.pow(0.25).to(weight_MN.dtype)


def keep(
    weights: Sequence[Tensor],
    pruned: Sequence[Tensor],
    _target: Target,
    *,
    check: Callable[[], None] = lambda: None,  # noqa: ARG001 - it finishes at once
    ranks: Ranks = ALONE,
) -> tuple[list[Tensor], tuple[str, ...]]:
    """The update `none`: kept weights stay unchanged.

    Args:
        weights: one m_i×n matrix per layer; not modified.
        pruned: the mask of pruned weights for each, in the rows of this rank.
        check: not called.
        ranks: who has the rows.

    Returns:
        The rows of this rank in each layer, and no notes.
    """
    kept = []
    for weight, mask in zip(weights, pruned, strict=True):
        own = weight[Rows(len(weight), ranks, weight.device).all]
        kept.append(zero_where(own.clone(), mask))
    return kept, ()
