"""Sequences that share their beginnings: the answers to one question, each scored after the same question.

The beginning of a group runs through a block once; keys and values that it leaves there are what the rest of every
sequence attends to. transformers' own cache holds them, for one block at a time.

Shapes: G groups, P tokens of a beginning, R sequences, K tokens of the longest rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from secateur_service.models.architectures import Architecture

# A beginning that few tokens share is run again rather than stored.
_LEAST_SHARED = 8
# Beginnings in a batch are cut to the shortest; what is cut is run once for every sequence.
_CUT = 17 / 16
# Rests that run together: how much longer one may be than another, which is padded.
_PADDED = 5 / 4
# Scales of rotary embeddings that depend on the length of what runs: a beginning alone would get another one.
_SCALED_BY_LENGTH = ("longrope", "dynamic")


@dataclass(frozen=True)
class TokenSequence:
    """A sequence of which the last tokens' states are needed.

    Attributes:
        tokens: ids of all.
        needed: of how many of the last tokens the states are needed, at least 1.
    """

    tokens: tuple[int, ...]
    needed: int

    @property
    def beginning(self) -> tuple[int, ...]:
        """What other sequences may share with it: the tokens whose states are not needed."""
        return self.tokens[: len(self.tokens) - self.needed]


@dataclass(frozen=True)
class Rests:
    """What follows the beginnings in some sequences of similar length.

    Attributes:
        tokens: ids R×K, padded on the right.
        lengths: tokens of each without padding, R.
        groups: the group of each, R.
        numbers: the number of each sequence among all that were given.
    """

    tokens: Tensor
    lengths: Sequence[int]
    groups: Tensor
    numbers: Sequence[int]


@dataclass(frozen=True)
class Branches:
    """A batch of sequences.

    Attributes:
        beginnings: token ids G×P that the sequences of a group share; P may be 0.
        rests: what follows them.
    """

    beginnings: Tensor
    rests: Sequence[Rests]

    @property
    def shared(self) -> int:
        """P."""
        return self.beginnings.shape[1]

    @property
    def parts(self) -> list[Tensor]:
        """The token ids of all that runs: of the beginnings, if there are any, then of the rests."""
        return [*([self.beginnings] if self.shared else []), *(rests.tokens for rests in self.rests)]

    @property
    def tokens(self) -> int:
        """Tokens that run through a block, with padding."""
        return sum(part.numel() for part in self.parts)


def branch(sequences: Sequence[TokenSequence], most_tokens: int, *, shares: bool = True) -> list[Branches]:
    """Divide sequences into batches; the result depends on nothing but the sequences.

    Args:
        sequences: distinct ones.
        most_tokens: tokens of a batch, with padding; one group may exceed it.
        shares: whether beginnings may run by themselves, see `may_share`.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    alone: list[list[int]] = []
    for number, sequence in enumerate(sequences):
        if shares and len(sequence.beginning) >= _LEAST_SHARED:
            groups.setdefault(sequence.beginning, []).append(number)
        else:
            alone.append([number])
    alone += [members for members in groups.values() if len(members) == 1]
    shared = [(len(beginning), members) for beginning, members in groups.items() if len(members) > 1]
    single = [(0, members) for members in alone]
    return [
        _joined(sequences, [members for _, members in batch], batch[0][0])
        for kind in (sorted(shared), sorted(single, key=lambda group: len(sequences[group[1][0]].tokens)))
        for batch in _packed(sequences, kind, most_tokens)
    ]


def may_share(config: Mapping[str, Any], architecture: Architecture) -> bool:
    """Whether keys and values of a beginning, run alone, are all that a longer sequence needs of it.

    Args:
        config: content of the model's config.json.
        architecture: its row of the table.
    """
    if architecture.is_recurrent:
        return False
    kinds = [value for key, value in _leaves(config) if key in ("rope_type", "type")]
    return not any(kind in _SCALED_BY_LENGTH for kind in kinds)


def remembering(tokens: int, blocks: int) -> DynamicCache:
    """A cache that has so many tokens, for those who only ask how many."""
    cache = DynamicCache()
    for index in range(blocks if tokens else 0):
        cache.update(torch.zeros(1, 1, tokens, 1), torch.zeros(1, 1, tokens, 1), index)
    return cache


def of_groups(cache: DynamicCache, index: int, groups: Tensor) -> DynamicCache:
    """A cache with the keys and values of block `index`, of the group of each of R sequences."""
    chosen, layer = DynamicCache(), cache.layers[index]
    assert isinstance(layer, DynamicLayer)
    assert layer.keys is not None
    assert layer.values is not None
    chosen.update(layer.keys[groups], layer.values[groups], index)
    return chosen


def with_cache(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], cache: Cache
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of a block with this cache in place of the one that they were recorded with."""
    args = tuple(cache if isinstance(value, Cache) else value for value in args)
    return args, {name: cache if isinstance(value, Cache) else value for name, value in kwargs.items()}


def _leaves(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        else:
            yield key, value


def _packed(
    sequences: Sequence[TokenSequence], groups: Sequence[tuple[int, list[int]]], most_tokens: int
) -> Iterator[list[tuple[int, list[int]]]]:
    """Groups in a row that fit into a batch; each with the length of its beginning, in ascending order."""
    batch: list[tuple[int, list[int]]] = []
    count = 0
    for length, members in groups:
        first = batch[0][0] if batch else length
        added = first + sum(len(sequences[number].tokens) - first for number in members)
        if batch and (count + added > most_tokens or length > _CUT * first > 0):
            yield batch
            batch, count = [], 0
            added = length + sum(len(sequences[number].tokens) - length for number in members)
        batch.append((length, members))
        count += added
    if batch:
        yield batch


def _joined(sequences: Sequence[TokenSequence], groups: Sequence[Sequence[int]], shared: int) -> Branches:
    rows = sorted(
        (len(sequences[number].tokens) - shared, number, group)
        for group, members in enumerate(groups)
        for number in members
    )
    rests: list[list[tuple[int, int, int]]] = []
    for row in rows:
        if not rests or row[0] > max(_PADDED * rests[-1][0][0], rests[-1][0][0] + 1):
            rests.append([])
        rests[-1].append(row)
    beginnings = [sequences[members[0]].tokens[:shared] for members in groups]
    return Branches(
        torch.tensor(beginnings if shared else [], dtype=torch.long).view(len(groups), shared),
        [_rests(sequences, some, shared) for some in rests],
    )


def _rests(sequences: Sequence[TokenSequence], rows: Sequence[tuple[int, int, int]], shared: int) -> Rests:
    lengths, numbers, groups = zip(*rows, strict=True)
    tokens = [torch.tensor(sequences[number].tokens[shared:], dtype=torch.long) for number in numbers]
    padded = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
    return Rests(padded, lengths, torch.tensor(groups), numbers)
