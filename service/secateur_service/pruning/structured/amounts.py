"""Chooses how much of each axis goes, so that a model fits a budget of parameters and its languages lose least.

What a plan costs a language is predicted as a sum, by which its loss for each byte of text grows:

- for the vocabulary, with the share of further tokens that the text takes;
- for removed blocks, as the search for them measured it;
- for narrower blocks, with what the projections lose of the hidden states: ‖X(W − Ŵ)ᵀ‖² / ‖h‖², summed over the blocks,
  times a slope for heads and one for channels. They are fitted to what narrow models were measured to lose.

There are a few hundred to a few thousand plans, because the rows follow from the rest of a plan: as many as the budget
leaves. So all are compared. The best is the one in which the language that loses most, as a share of what it may lose,
loses least. Does not import torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from secateur_service.pruning.structured.vocabulary import ROWS_MULTIPLE

Growth = Mapping[str, float]
"""By language, the share by which its loss grows."""

TOKENS_SLOPE = 1.5
"""Growth of the loss for each further token: a word in pieces is harder to predict. Measured between 1 and 2."""
_STEPS = 24  # of a width, that plans next to each other are apart at least


@dataclass(frozen=True)
class Amounts:
    """What stays of each axis.

    Attributes:
        rows: of the vocabulary.
        removed: number of blocks that go.
        heads: key/value heads of each block.
        channels: of each feed-forward layer.
    """

    rows: int
    removed: int
    heads: int
    channels: int


@dataclass(frozen=True)
class BlockSizes:
    """The parameters of a block: all of them, and those of each head and of each channel."""

    all: int
    head: int
    channel: int


@dataclass(frozen=True)
class Sizes:
    """The parameters of a model.

    Attributes:
        dense: what the model has of each axis, with no block removed.
        outside: of everything outside the blocks, without the rows of the vocabulary.
        row: of a row of the vocabulary, in the embedding and in the head.
        blocks: of each block.
    """

    dense: Amounts
    outside: int
    row: int
    blocks: Sequence[BlockSizes]

    def parameters(self, amounts: Amounts, removed: Sequence[int]) -> int:
        """Those of a model with these amounts, from which the given blocks are removed."""
        return self.outside + self.row * amounts.rows + self.in_blocks(amounts.heads, amounts.channels, removed)

    def in_blocks(self, heads: int, channels: int, removed: Sequence[int]) -> int:
        """Those of the blocks that are left."""
        gone_heads, gone_channels = self.dense.heads - heads, self.dense.channels - channels
        return sum(
            size.all - gone_heads * size.head - gone_channels * size.channel
            for index, size in enumerate(self.blocks)
            if index not in removed
        )


@dataclass(frozen=True)
class Costs:
    """What is known of the costs along each axis.

    Attributes:
        rows: expected share of further tokens by language, by the number of rows that stay.
        order: the blocks in the order in which they are removed, as many as may be.
        blocks: measured growth with the first blocks of the order removed: without any, without one, and so on.
        heads: for every block, what it loses of the hidden states, by the number of heads that stay.
        channels: the same for channels.
        multiple: what the number of channels is a multiple of.
    """

    rows: Mapping[int, Growth]
    order: Sequence[int]
    blocks: Sequence[Growth]
    heads: Sequence[Mapping[int, Growth]]
    channels: Sequence[Mapping[int, Growth]]
    multiple: int

    def extra_tokens(self, rows: int) -> dict[str, float]:
        """Expected share of further tokens, between the numbers of rows for which it is known."""
        return _between(self.rows, rows)

    def lost(self, amounts: Amounts) -> tuple[dict[str, float], dict[str, float]]:
        """What the blocks that are left lose of the hidden states, summed: with heads, and with channels."""
        return self._sum(self.heads, amounts.heads, amounts), self._sum(self.channels, amounts.channels, amounts)

    def _sum(self, parts: Sequence[Mapping[int, Growth]], count: int, amounts: Amounts) -> dict[str, float]:
        total = dict.fromkeys(self.blocks[0], 0.0)
        for index, known in enumerate(parts):
            if index not in self.order[: amounts.removed]:
                for language, share in _between(known, count).items():
                    total[language] += share
        return total


@dataclass
class Prediction:
    """Predicts what a plan costs; learns from what was measured.

    Attributes:
        costs: along each axis.
        slopes: by language, growth of the loss for what the blocks lose of the hidden states; for heads, for channels.
        vocabularies: measured growth by the number of rows, where nothing else was removed.
    """

    costs: Costs
    slopes: tuple[dict[str, float], dict[str, float]]
    vocabularies: dict[int, Growth]

    def growth(self, amounts: Amounts) -> dict[str, float]:
        """The predicted growth by language."""
        found = self._apart(amounts)
        for lost, slopes in zip(self.costs.lost(amounts), self.slopes, strict=True):
            for language in found:
                found[language] += slopes[language] * lost[language]
        return found

    def learn(self, amounts: Amounts, measured: Growth) -> None:
        """Fit a slope to what a plan was measured to cost: that of heads if it has fewer, else that of channels."""
        axis = 0 if any(self.costs.lost(amounts)[0].values()) else 1
        expected, lost, slopes = self.growth(amounts), self.costs.lost(amounts)[axis], self.slopes[axis]
        for language, share in measured.items():
            if lost[language] > 0:  # a model may gain by chance, but no plan is good because it loses more
                fitted = slopes[language] + (share - expected[language]) / lost[language]
                slopes[language] = max(fitted, 0.1 * slopes[language])

    def _apart(self, amounts: Amounts) -> dict[str, float]:
        """What is measured apart from the width of the blocks: the vocabulary's part and that of removed blocks."""
        extra, depth = self.costs.extra_tokens(amounts.rows), self.costs.blocks[amounts.removed]
        known = dict.fromkeys(extra, 0.0)
        at = dict.fromkeys(extra, 0.0)
        if self.vocabularies:
            nearest = min(self.vocabularies, key=lambda rows: (abs(rows - amounts.rows), rows))
            if amounts.rows < max(self.costs.rows):
                known, at = dict(self.vocabularies[nearest]), self.costs.extra_tokens(nearest)
        return {
            language: known[language] + TOKENS_SLOPE * (share - at[language]) + depth[language]
            for language, share in extra.items()
        }


def candidates(sizes: Sizes, costs: Costs, parameters: int) -> Iterator[Amounts]:
    """All plans within a budget of parameters, each with as many rows as it leaves."""
    channels = _multiples(costs.channels, sizes.dense.channels, costs.multiple)
    heads = sorted(costs.heads[0], reverse=True) if costs.heads else [sizes.dense.heads]
    fewest, most = min(costs.rows), max(costs.rows)
    for removed, kept, width in itertools.product(range(len(costs.blocks)), heads, channels):
        left = parameters - sizes.outside - sizes.in_blocks(kept, width, costs.order[:removed])
        rows = left // sizes.row
        rows = most if rows >= most else rows // ROWS_MULTIPLE * ROWS_MULTIPLE
        if rows >= fewest:
            yield Amounts(rows, removed, kept, width)


def choose_amounts(found: Sequence[Amounts], prediction: Prediction, limits: Growth) -> Amounts:
    """The plan in which the language that loses most, as a share of its limit, loses least.

    Args:
        found: the plans, at least one.
        prediction: of what they cost.
        limits: by language, positive.
    """
    return min(found, key=lambda amounts: (worst(prediction.growth(amounts), limits), -amounts.rows))


def neighbours(found: Sequence[Amounts], amounts: Amounts, prediction: Prediction, limits: Growth) -> list[Amounts]:
    """The plans next to one: a step wider or narrower, and with a block or a head more or less.

    Where a plan has another number of blocks or heads, its width is the one that is predicted to be the best.
    """
    width = max(plan.channels for plan in found)
    step = width / _STEPS
    near: list[Amounts] = []
    for sign in (1, -1):
        same = [plan for plan in found if (plan.removed, plan.heads) == (amounts.removed, amounts.heads)]
        on = [plan for plan in same if sign * (plan.channels - amounts.channels) >= step]
        near += sorted(on, key=lambda plan: abs(plan.channels - amounts.channels))[:1]
        for removed, heads in ((amounts.removed + sign, amounts.heads), (amounts.removed, amounts.heads + sign)):
            other = [plan for plan in found if (plan.removed, plan.heads) == (removed, heads)]
            near += [choose_amounts(other, prediction, limits)] if other else []
    return near


def worst(growth: Growth, limits: Growth) -> float:
    """What the dearest language loses, as a share of its limit."""
    return max(growth[language] / limit for language, limit in limits.items())


def _multiples(known: Sequence[Mapping[int, Growth]], most: int, multiple: int) -> list[int]:
    """The amounts that a block can have, the most first."""
    if not known:
        return [most]
    fewest = min(min(each) for each in known)
    return [most, *(count for count in range(most - 1, fewest - 1, -1) if not count % multiple)]


def _between(known: Mapping[int, Growth], count: int) -> dict[str, float]:
    """Shares at an amount between two for which they are known, on a straight line between these."""
    below = max((amount for amount in known if amount <= count), default=min(known))
    above = min((amount for amount in known if amount >= count), default=max(known))
    if below == above:
        return dict(known[below])
    way = (count - below) / (above - below)
    return {language: share + way * (known[above][language] - share) for language, share in known[below].items()}
