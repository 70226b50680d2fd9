"""How far two jobs on one dense model removed the same weights, from the samples of masks in their reports.

The share of common zeros says little by itself: two masks that each remove half of the weights at random share a third
of what either removes. So it is given with that chance level (s₁s₂ / (s₁ + s₂ − s₁s₂) for sparsities s₁ and s₂), and
corrected for it, layer by layer.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from secateur_service.evaluation.html import narrowed_parts, row_label
from secateur_service.evaluation.report import Report


@dataclass(frozen=True)
class Masks:
    """Samples of a job's masks.

    Attributes:
        model: digest of the dense model, and the blocks of it that were removed: what positions refer to.
        shapes: of the matrices, by block and row.
        zeros: which of the sampled weights are zero, a bit each, by block and row; the experts of a row are joined.
        sampled: number of these weights.
    """

    model: tuple[str, tuple[int, ...]]
    shapes: Mapping[tuple[int, str], tuple[tuple[int, int], ...]]
    zeros: Mapping[tuple[int, str], int]
    sampled: Mapping[tuple[int, str], int]

    @classmethod
    def of(cls, report: Report) -> Self | None:
        """The samples of a report; None if it has none, or if matrices lack rows or columns of the dense model's."""
        layers = [(block.index, layer) for block in report.blocks for layer in block.layers]
        if not layers or any(narrowed_parts(report)) or not all(layer.mask_sample for _, layer in layers):
            return None
        shapes: dict[tuple[int, str], tuple[tuple[int, int], ...]] = {}
        digits: dict[tuple[int, str], str] = {}
        for index, layer in layers:
            key = (index, row_label(layer.name, index))
            shapes[key] = (*shapes.get(key, ()), layer.shape)
            digits[key] = digits.get(key, "") + layer.mask_sample
        return cls(
            model=(report.model.digest, tuple(sorted(part.block for part in report.removed_blocks))),
            shapes=shapes,
            zeros={key: int(text, 16) for key, text in digits.items()},
            sampled={key: 4 * len(text) for key, text in digits.items()},
        )


@dataclass(frozen=True)
class Shared:
    """What two jobs have in common, as the mean over their layers."""

    shared: float
    chance: float
    beyond_chance: float


def overlap(one: Masks, other: Masks) -> Shared | None:
    """Compare the masks of two jobs; None if their positions are not those of the same matrices, or nothing is zero."""
    if one.model != other.model or one.shapes != other.shapes:
        return None
    shares, chances = [], []
    for key, zeros in one.zeros.items():
        first, second, both = zeros.bit_count(), other.zeros[key].bit_count(), (zeros & other.zeros[key]).bit_count()
        if not first or not second:
            continue
        shares.append(both / (first + second - both))
        by_chance = first * second / one.sampled[key]
        chances.append(by_chance / (first + second - by_chance))
    if not shares:
        return None
    shared, chance = statistics.fmean(shares), statistics.fmean(chances)
    return Shared(shared, chance, (shared - chance) / (1 - chance) if chance < 1 else 1.0)
