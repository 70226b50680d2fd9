"""How sequences are divided into batches.

A batch holds sequences of one language. That of calibration text is a multiple of the tile over which statistics are
summed, so that no tile has to wait for the next batch. Each rank has some batches, of the calibration text those of its
shards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from secateur_service.pruning.budget import BATCH_TILES, TILE_TOKENS
from secateur_service.pruning.ranks import ALONE, SHARDS, Ranks

_SCORED_TOKENS = 512


@dataclass(frozen=True)
class Batch:
    """Token ids B×S of sequences of one language, and the shard that they are summed up in."""

    language: str
    tokens: Tensor
    shard: int = 0


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
    parts = [(language, part) for language, tokens in samples.items() for part in tokens.split(size)]
    return [Batch(*part, position * SHARDS // len(parts)) for position, part in enumerate(parts)]


@dataclass(frozen=True)
class CalibrationText:
    """The calibration text, of which this rank has some batches.

    Attributes:
        batches: those of this rank.
        tokens: number of tokens of each language, of all ranks.
        before: number of tokens of each language in the batches before those of this rank.
        ranks: all ranks.
    """

    batches: Sequence[Batch]
    tokens: Mapping[str, int]
    before: Mapping[str, int]
    ranks: Ranks = ALONE

    @classmethod
    def of(cls, batches: Sequence[Batch], languages: Iterable[str], ranks: Ranks = ALONE) -> Self:
        """A rank's share of all batches, in the languages of a mix."""
        tokens = dict.fromkeys(languages, 0)
        before, own = dict(tokens), []
        for batch in batches:
            owner = ranks.owner(batch.shard, SHARDS)
            tokens[batch.language] += batch.tokens.numel()
            if owner < ranks.rank:
                before[batch.language] += batch.tokens.numel()
            elif owner == ranks.rank:
                own.append(batch)
        return cls(own, tokens, before, ranks)

    @property
    def own_tokens(self) -> int:
        """Number of tokens of this rank's batches; at least one, to divide by."""
        return max(1, sum(batch.tokens.numel() for batch in self.batches))


def own_batches(batches: Sequence[Batch], ranks: Ranks) -> list[Batch]:
    """A rank's share of batches that nothing is summed over: consecutive ones."""
    return [batch for position, batch in enumerate(batches) if ranks.owner(position, len(batches)) == ranks.rank]
