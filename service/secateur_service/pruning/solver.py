"""The named methods, and the one function that prunes the layers sharing an input by any of them."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur_service.pruning import scores
from secateur_service.pruning.patterns import Target, prune_rows
from secateur_service.pruning.sparsegpt import sparsegpt
from secateur_service.pruning.statistics import InputStatistics


class Moments(enum.Enum):
    """What a method needs to know of a layer's inputs."""

    NONE = enum.auto()
    DIAGONAL = enum.auto()
    FULL = enum.auto()


NEEDS = {"magnitude": Moments.NONE, "wanda": Moments.DIAGONAL, "sparsegpt": Moments.FULL}


@dataclass(frozen=True)
class PrunedLayer:
    """A pruned matrix m×n, what was pruned (booleans m×n), and notes on what had to be mended."""

    weight: Tensor
    pruned: Tensor
    notes: tuple[str, ...] = ()


@torch.no_grad()
def solve(
    method: str, weights: Sequence[Tensor], statistics: InputStatistics | None, target: Target
) -> list[PrunedLayer]:
    """Prune the matrices m_i×n of layers that share one input.

    Args:
        method: a key of `NEEDS`.
        weights: the dense matrices, float32; not modified.
        statistics: of the common input; None where the method needs none.
        target: how much goes.

    Raises:
        FloatingPointError: the statistics cannot be used.
    """
    if method == "magnitude":
        return [_masked(weight, prune_rows(scores.magnitude(weight), target)) for weight in weights]
    assert statistics is not None
    if not statistics.is_finite():
        raise FloatingPointError("inputs that are not finite")
    if method == "wanda":
        mean_squares = statistics.mean_squares()
        return [_masked(weight, prune_rows(scores.wanda(weight, mean_squares), target)) for weight in weights]
    assert statistics.gram is not None
    new, pruned, notes = sparsegpt(weights, statistics.gram, target)
    return [PrunedLayer(weight, mask, notes) for weight, mask in zip(new, pruned, strict=True)]


def _masked(weight: Tensor, pruned: Tensor) -> PrunedLayer:
    return PrunedLayer(weight.masked_fill(pruned, 0), pruned)
