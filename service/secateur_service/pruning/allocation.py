"""Allocation: how sparse each block becomes so that the whole model reaches a given sparsity.

Each block is judged by one number, its signal: the larger the signal, the less of the block is pruned. OWL counts
outliers among Wanda's scores (Yin et al., "Outlier Weighed Layerwise Sparsity", ICML 2024, 2310.05175). Our own
`multilingual` counts them per language and takes the largest count as the block's signal. All else is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction

import torch
from torch import Tensor

from secateur_service.pruning.patterns import target_count
from secateur_service.pruning.scores import wanda
from secateur_service.pruning.statistics import InputStatistics

_BISECTIONS = 60

Shape = tuple[int, int]

# For each layer of a block: its weight m×n and the statistics of its inputs.
Layers = Sequence[tuple[Tensor, InputStatistics]]


def owl(layers: Layers, outlier: float) -> float:
    """D_b: the share of outliers among the block's Wanda scores for the mix.

    Args:
        layers: the block's layers.
        outlier: M_o, the multiple of the block's mean score above which a score is an outlier.
    """
    return _outlier_share([(weight_MN, seen.mean_squares()) for weight_MN, seen in layers], outlier)


def multilingual(layers: Layers, outlier: float) -> float:
    """The largest share of outliers in any one language; with a single language, the same as OWL. Ours.

    Args:
        layers: the block's layers.
        outlier: as in `owl`.
    """
    squares = [(weight_MN, seen.language_mean_squares()) for weight_MN, seen in layers]
    languages = [language for language, weight in layers[0][1].mix.items() if weight > 0]
    return max(_outlier_share([(weight_MN, of[name]) for weight_MN, of in squares], outlier) for name in languages)


SIGNALS: Mapping[str, Callable[[Layers, float], float]] = {"owl": owl, "multilingual": multilingual}


def _outlier_share(layers: Sequence[tuple[Tensor, Tensor]], outlier: float) -> float:
    def scores() -> Iterator[Tensor]:  # computed twice, because a whole block's scores may be large
        for weight_MN, mean_squares_N in layers:
            yield wanda(weight_MN.float(), mean_squares_N)

    count = sum(weight_MN.numel() for weight_MN, _ in layers)
    threshold = outlier * sum(float(score_MN.sum(dtype=torch.float64)) for score_MN in scores()) / count
    return sum(int((score_MN > threshold).sum()) for score_MN in scores()) / count


def block_sparsities(signals: Sequence[float], sizes: Sequence[int], sparsity: float, span: float) -> list[float]:
    """The sparsity of every block: linear in its signal, and averaging to the requested sparsity.

    The block with the largest signal is 2λ less sparse than the one with the smallest, unless one of them reaches 0
    or 1; equal signals give equal sparsities.

    Args:
        signals: the signal of every block.
        sizes: number of weights of every block.
        sparsity: S; the result has this mean over all weights, and no more.
        span: λ.
    """
    highest, lowest = max(signals, default=0.0), min(signals, default=0.0)
    extent = highest - lowest or 1.0
    offsets = [2 * span * (highest - signal) / extent for signal in signals]

    def shifted(shift: float) -> list[float]:
        return [min(max(shift + offset, 0.0), 1.0) for offset in offsets]

    # The number of pruned weights grows with the shift, from none to all.
    goal = sum(sizes) * Fraction(repr(sparsity))
    low, high = -2 * span, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        pruned = sum(size * Fraction(share) for size, share in zip(sizes, shifted(middle), strict=True))
        low, high = (middle, high) if pruned <= goal else (low, middle)
    return shifted(low)


def layer_sparsities(
    signals: Sequence[float],
    blocks: Sequence[Sequence[Mapping[str, Shape]]],
    sparsity: float,
    span: float,
    group: str,
) -> dict[str, float]:
    """The sparsity of every layer, chosen so that the resulting integer counts add up.

    Layers that share an input get one sparsity, so that they can be solved together. Their counts are rounded down,
    and the total shortfall is distributed by largest remainder. What then remains, too little for any input that got
    no extra step, goes to single layers of one such input. Where weights compete within a layer, the model loses
    exactly ⌊S · all weights⌋. Where they compete within a row, every row of a layer loses the same number: the model
    loses at most that, and falls short by less than the number of rows of one of its layers.

    Args:
        signals: the signal of every block.
        blocks: for every block and each of its inputs, (out, in) of the layers by name.
        sparsity: S.
        span: λ.
        group: which weights compete, one of `methods.GROUPS`.
    """
    sizes = [sum(sum(map(math.prod, layers.values())) for layers in block) for block in blocks]
    shares = block_sparsities(signals, sizes, sparsity, span)
    inputs = [_Input(layers, share, group) for block, share in zip(blocks, shares, strict=True) for layers in block]
    missing = target_count(sum(sizes), sparsity) - sum(each.count * each.step for each in inputs)
    rest: _Input | None = None
    for each in sorted((each for each in inputs if each.remainder), key=lambda each: -each.remainder):
        if each.step <= missing:
            each.count += 1
            missing -= each.step
        else:
            rest = rest or each
    pruned = {name: count for each in inputs for name, count in each.pruned().items()}
    for name, (rows, columns) in rest.layers.items() if rest else ():
        step = rows if group == "row" else 1
        extra = min(missing // step * step, rows * columns - pruned[name])
        pruned[name] += extra
        missing -= extra
    return {name: _share_of(pruned[name], shape, group) for each in inputs for name, shape in each.layers.items()}


class _Input:
    """The layers that share one input, which lose weights in steps, each in proportion to its size.

    Attributes:
        step: weights pruned per step, over all layers: one per row, or the fewest that keep the proportion.
        count: number of steps, rounded down.
        remainder: what rounding removed, in steps.
    """

    def __init__(self, layers: Mapping[str, Shape], share: float, group: str) -> None:
        heights = [rows for rows, _ in layers.values()]
        self.layers = dict(sorted(layers.items(), key=lambda layer: -layer[1][0]))
        self._size = sum(map(math.prod, layers.values()))
        self.step = sum(heights) // (1 if group == "row" else math.gcd(*heights))
        ideal = self._size * Fraction(share) / self.step
        self.count = int(ideal)
        self.remainder = ideal - self.count

    def pruned(self) -> dict[str, int]:
        """How many weights every layer loses."""
        return {name: math.prod(shape) * self.count * self.step // self._size for name, shape in self.layers.items()}


def _share_of(pruned: int, shape: Shape, group: str) -> float:
    """The sparsity that `target_count` turns back into the count."""
    rows, columns = shape
    size, count = (columns, pruned // rows) if group == "row" else (rows * columns, pruned)
    share = count / size
    return share if target_count(size, share) == count else math.nextafter(share, 1.0)
