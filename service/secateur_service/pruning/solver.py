"""Prunes the layers that share an input: a score chooses the mask, an update the values of the kept weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur_service.pruning.methods import SCORES, UPDATES, Moments, Recipe, Score, Update, load
from secateur_service.pruning.patterns import Target, prune_rows
from secateur_service.pruning.ranks import ALONE, Ranks, Rows
from secateur_service.pruning.statistics import InputStatistics

RIDGE = 1.0
"""Of each input's second moment, where there are as many tokens as inputs."""
_LEAST_RIDGE = 5e-3


@dataclass(frozen=True)
class PrunedLayer:
    """Rows of a pruned matrix m×n, the mask of pruned weights in them, and notes on what had to be repaired.

    The rows are those of this rank (`Rows`): all of them where there is one.
    """

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
    ranks: Ranks = ALONE,
) -> list[PrunedLayer]:
    """Prune the matrices m_i×n of layers that share one input.

    Args:
        recipe: score and update.
        weights: the dense matrices, float32; not modified.
        statistics: those of the common input; None where the recipe needs none.
        target: how much to prune.
        check: called between two pieces of work; raises to stop.
        ranks: who solves them; all have the same arguments.

    Raises:
        FloatingPointError: the statistics cannot be used.
    """
    if recipe.moments is not Moments.NONE and (statistics is None or not statistics.is_finite()):
        raise FloatingPointError("inputs that are not finite")
    score, notes = SCORES[recipe.score], ()
    choose, known = load(score.function), _read(statistics, score)
    if score.solver is not None:
        if score.divides:
            solved, pruned, notes = choose(weights, *known, target, check=check, ranks=ranks, **recipe.options)
        else:
            solved, pruned, notes = choose(weights, *known, target, check=check, **recipe.options)
            solved, pruned = _own(solved, ranks), _own(pruned, ranks)
        if score.solver == recipe.update:
            return _layers(solved, pruned, notes)
    else:
        pruned = []
        for weight in weights:
            check()
            rows = Rows(len(weight), ranks, weight.device)
            scores = choose(weight, *known, **recipe.options)
            pruned.append(prune_rows(scores[rows.all], target, rows, ranks))
    update = UPDATES[recipe.update]
    assert update.function is not None
    change, known = load(update.function), _read(statistics, update)
    if update.divides:
        kept, mended = change(weights, pruned, *known, target, check=check, ranks=ranks)
    else:
        sizes = [Rows(len(weight), ranks, weight.device).sizes for weight in weights]
        masks = [ranks.gather(mask.contiguous(), size) for mask, size in zip(pruned, sizes, strict=True)]
        kept, mended = change(weights, masks, *known, target, check=check)
        kept = _own(kept, ranks)
    return _layers(kept, pruned, (*notes, *mended))


def _own(matrices: Sequence[Tensor], ranks: Ranks) -> list[Tensor]:
    """The rows of this rank."""
    return [matrix[Rows(len(matrix), ranks, matrix.device).all] for matrix in matrices]


def with_ridge(statistics: InputStatistics) -> Tensor:
    """H + Λ with Λ = RIDGE · (n/T)² · diag H: what the solvers read as second moments, n×n; do not modify it.

    With fewer tokens T than inputs n, H is singular, and with not many more its small eigenvalues are chance: weights
    that fit it lose on other text. Where there is much text nothing is added.
    """
    gram_NN = statistics.gram
    assert gram_NN is not None
    ridge = RIDGE * (len(gram_NN) / max(1, sum(statistics.seen.values()))) ** 2
    if ridge < _LEAST_RIDGE:
        return gram_NN
    damped_NN = gram_NN.clone()
    damped_NN.diagonal().mul_(1 + ridge)
    return damped_NN


_READERS: Mapping[str, Callable[[InputStatistics], object]] = {
    "mean_squares": lambda statistics: statistics.mean_squares(),
    "language_mean_squares": lambda statistics: statistics.language_mean_squares(),
    "mix": lambda statistics: statistics.mix,
    "gram": with_ridge,
}


def _read(statistics: InputStatistics | None, part: Score | Update) -> list[object]:
    if not part.reads:
        return []
    assert statistics is not None
    return [_READERS[name](statistics) for name in part.reads]


def _layers(weights: Sequence[Tensor], masks: Sequence[Tensor], notes: tuple[str, ...]) -> list[PrunedLayer]:
    return [PrunedLayer(weight, mask, notes) for weight, mask in zip(weights, masks, strict=True)]
