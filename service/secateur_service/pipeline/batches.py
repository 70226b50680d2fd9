"""How sequences are divided into batches.

A batch holds sequences of one language. That of calibration text is a multiple of the tile over which statistics are
summed, so that no tile has to wait for the next batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur_service.pruning.budget import BATCH_TILES, TILE_TOKENS

_SCORED_TOKENS = 512


@dataclass(frozen=True)
class Batch:
    """Token ids B×S of sequences of one language."""

    language: str
    tokens: Tensor


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
    return [Batch(language, part) for language, tokens in samples.items() for part in tokens.split(size)]
