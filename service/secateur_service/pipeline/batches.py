"""How sequences are divided into batches.

A batch holds sequences of one language. That of calibration text is a multiple of the tile over which statistics are
summed, so that no tile has to wait for the next batch. Each rank has some batches, of the calibration text those of its
shards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

import torch
from torch import Tensor

from secateur_service.pruning.budget import BATCH_TILES, TILE_TOKENS
from secateur_service.pruning.ranks import ALONE, SHARDS, Ranks

_SCORED_TOKENS = 512
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Batch:
    """Sequences of one language.

    Attributes:
        language: theirs.
        tokens: their ids B×S.
        shard: that they are summed up in.
        start: how many tokens of the language are in batches before this one.
    """

    language: str
    tokens: Tensor
    shard: int = 0
    start: int = 0


def batch_sequences(sequence_length: int, device: torch.device, *, small: bool = False) -> int:
    """Sequences per batch: one tile of tokens on a CPU, more on a device that has the memory."""
    tile = max(1, TILE_TOKENS // sequence_length)
    return tile * BATCH_TILES["cpu" if small else device.type]


def scored_sequences(sequence_length: int, device: torch.device, *, small: bool = False) -> int:
    """Sequences per batch of evaluation text, over which nothing is summed.

    On a CPU few tokens: what a block computes on the way then stays in memory that the process has, and in its caches.
    """
    if device.type == "cpu":
        return max(1, _SCORED_TOKENS // sequence_length)
    return batch_sequences(sequence_length, device, small=small)


def divide(samples: Mapping[str, Tensor], size: int) -> list[Batch]:
    """Divide the sequences N×S of each language into batches of at most `size`, in order."""
    parts = [
        (language, part, number * size * tokens.shape[1])
        for language, tokens in samples.items()
        for number, part in enumerate(tokens.split(size))
    ]
    return [
        Batch(language, part, position * SHARDS // len(parts), start)
        for position, (language, part, start) in enumerate(parts)
    ]


@dataclass(frozen=True)
class CalibrationText:
    """The calibration text, of which this rank has some batches.

    Attributes:
        batches: those of this rank.
        all_batches: those of all ranks, in order.
        owners: the rank that has each of these.
        tokens: number of tokens of each language, of all ranks.
        ranks: all ranks.
    """

    batches: Sequence[Batch]
    all_batches: Sequence[Batch]
    owners: Sequence[int]
    tokens: Mapping[str, int]
    ranks: Ranks = ALONE

    @classmethod
    def of(cls, batches: Sequence[Batch], languages: Iterable[str], ranks: Ranks = ALONE) -> Self:
        """A rank's share of all batches, in the languages of a mix."""
        tokens = dict.fromkeys(languages, 0)
        for batch in batches:
            tokens[batch.language] += batch.tokens.numel()
        owners = [ranks.owner(batch.shard, SHARDS) for batch in batches]
        own = [batch for batch, owner in zip(batches, owners, strict=True) if owner == ranks.rank]
        return cls(own, batches, owners, tokens, ranks)

    @property
    def own_tokens(self) -> int:
        """Number of tokens of this rank's batches; at least one, to divide by."""
        return max(1, sum(batch.tokens.numel() for batch in self.batches))

    @property
    def pace(self) -> float:
        """How much text of all ranks is done with some of this one's, as all are done at about the same time."""
        return sum(self.tokens.values()) / self.own_tokens

    @property
    def needed(self) -> Tensor:
        """Ascending ids of all tokens of all ranks."""
        return torch.unique(torch.cat([batch.tokens.flatten() for batch in self.all_batches]))


def own_share(items: Sequence[_Item], ranks: Ranks) -> list[_Item]:
    """A rank's share of batches that nothing is summed over, or of what there is for each of them: consecutive ones."""
    return [item for position, item in enumerate(items) if ranks.owner(position, len(items)) == ranks.rank]
