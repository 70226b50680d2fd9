"""Prunes the layers that share an input: a score chooses the mask, an update the values of what stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur_service.pruning import scores
from secateur_service.pruning.alps import alps
from secateur_service.pruning.conjugate_gradient import refine
from secateur_service.pruning.methods import Moments, Recipe
from secateur_service.pruning.patterns import Target, prune
from secateur_service.pruning.sparsegpt import sparsegpt
from secateur_service.pruning.statistics import InputStatistics


@dataclass(frozen=True)
class PrunedLayer:
    """A pruned matrix m×n, what was pruned (booleans m×n), and notes on what had to be mended."""

    weight: Tensor
    pruned: Tensor
    notes: tuple[str, ...] = ()


@torch.no_grad()
def solve(
    recipe: Recipe,
    weights: Sequence[Tensor],
    statistics: InputStatistics | None,
    target: Target,
    check: Callable[[], None] = lambda: None,
) -> list[PrunedLayer]:
    """Prune the matrices m_i×n of layers that share one input.

    Args:
        recipe: score and update.
        weights: the dense matrices, float32; not modified.
        statistics: of the common input; None where the recipe needs none.
        target: how much goes.
        check: called between two pieces of work; raises to stop.

    Raises:
        FloatingPointError: the statistics cannot be used.
    """
    if recipe.moments is not Moments.NONE and (statistics is None or not statistics.is_finite()):
        raise FloatingPointError("inputs that are not finite")
    gram = statistics.gram if statistics is not None else None
    if recipe.score == "admm":
        assert gram is not None
        return _layers(*alps(weights, gram, target, check), ())
    if recipe.score == "obs":
        assert gram is not None
        # The score is SparseGPT's, on weights that carry the compensation so far: the mask comes out of the sweep.
        swept, pruned, notes = sparsegpt(weights, gram, target, check=check)
        if recipe.update == "obs":
            return _layers(swept, pruned, notes)
    else:
        pruned, notes = [], ()
        for weight in weights:
            check()
            pruned.append(prune(_score(recipe, weight, statistics), target))
    if recipe.update == "none":
        kept = [weight.masked_fill(mask, 0) for weight, mask in zip(weights, pruned, strict=True)]
    elif recipe.update == "cg":
        assert gram is not None
        kept = [refine(weight, mask, gram, check=check) for weight, mask in zip(weights, pruned, strict=True)]
    else:
        assert gram is not None
        kept, pruned, notes = sparsegpt(weights, gram, target, chosen=pruned, check=check)
    return _layers(kept, pruned, notes)


def _score(recipe: Recipe, weight: Tensor, statistics: InputStatistics | None) -> Tensor:
    if recipe.score == "magnitude":
        return scores.magnitude(weight)
    assert statistics is not None
    if recipe.score == "wanda":
        return scores.wanda(weight, statistics.mean_squares())
    if recipe.score == "wanda_multilingual":
        languages = statistics.language_mean_squares()
        return scores.wanda_multilingual(weight, languages, statistics.weights, recipe.spread)
    return scores.ria(weight, statistics.mean_squares())


def _layers(weights: Sequence[Tensor], masks: Sequence[Tensor], notes: tuple[str, ...]) -> list[PrunedLayer]:
    return [PrunedLayer(weight, mask, notes) for weight, mask in zip(weights, masks, strict=True)]
