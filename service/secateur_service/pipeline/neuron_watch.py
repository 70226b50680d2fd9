"""Counts, while the evaluation text runs through both models, on how many tokens each feed-forward neuron is active.

A watch listens to the gates of blocks in memory; it runs nothing itself. What it counted in the dense model is kept
with the hidden states for later jobs (`pipeline.shared_states`). A finished block of an earlier attempt that is read
back counts the same again.

Each language's windows are divided into two halves, each of windows that follow each other, because they may share
documents.

Shapes: B sequences, S tokens, f neurons of a block.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from secateur_service.models.checkpoint import Checkpoint
from secateur_service.models.units import Gate, gate_of
from secateur_service.pipeline.batches import Batch, own_share
from secateur_service.pruning.language_neurons import Activity, NeuronSurvey, survey
from secateur_service.pruning.ranks import ALONE, Ranks
from secateur_service.records.blocks import BlockRecord

HALVES = 2
WEIGHTS = "weights"
"""The name under which a block has, 2×f, how many weights of each neuron are not zero, and how many there are."""

Counts = dict[str, Tensor]
"""Of a block: 2×f for the halves of each language's text, by language, and `WEIGHTS`; on the host."""


class Watch:
    """Counts the active neurons of one model.

    Args:
        checkpoint: the model.
        batches: the evaluation text.
        weighs: whether to count weights too.
        ranks: who has the batches.

    Attributes:
        counted: the counts by the number of the block in the model; blocks without gates have none.
    """

    def __init__(self, checkpoint: Checkpoint, batches: Sequence[Batch], *, weighs: bool, ranks: Ranks = ALONE) -> None:
        self.counted: dict[int, Counts] = {}
        self._checkpoint = checkpoint
        self._weighs = weighs
        self._ranks = ranks
        totals: dict[str, int] = {}
        for batch in batches:
            totals[batch.language] = totals.get(batch.language, 0) + len(batch.tokens)
        seen = dict.fromkeys(totals, 0)
        halves = []  # of every batch: its language, and how many of its windows are in the first half
        self.tokens = dict.fromkeys(totals, (0, 0))
        for batch in batches:
            count, language = len(batch.tokens), batch.language
            first = min(count, max(0, (totals[language] + 1) // HALVES - seen[language]))
            halves.append((language, first))
            seen[language] += count
            length, so_far = batch.tokens.shape[1], self.tokens[language]
            self.tokens[language] = so_far[0] + first * length, so_far[1] + (count - first) * length
        self._halves = own_share(halves, ranks)

    @contextlib.contextmanager
    def counting(self, block: nn.Module, index: int) -> Iterator[None]:
        """Count in a block in memory, through which this rank's batches run in their order within the context."""
        gate = gate_of(self._checkpoint, index)
        if gate is None:
            yield
            return
        counts = {language: torch.zeros(HALVES, gate.channels, dtype=torch.long) for language in self.tokens}
        halves = iter(self._halves)

        def count(_: nn.Module, __: Any, gated_BSF: Tensor) -> None:
            language, first = next(halves, ("", 0))
            if not language:  # requests of tasks, which follow the text
                return
            # The activations of gates (SiLU, GELU, ReLU) have the sign of their input.
            gated_BSF = gated_BSF[..., : gate.channels]
            # Sums of booleans take several times as long; these numbers are exact up to 2²⁴ tokens in a batch.
            active_BSF = torch.empty_like(gated_BSF, dtype=torch.float32)
            torch.gt(gated_BSF, 0, out=active_BSF)
            of_halves = torch.stack([part.sum((0, 1)).long() for part in (active_BSF[:first], active_BSF[first:])])
            counts[language] = counts[language].to(of_halves.device).add_(of_halves)

        handle = block.get_submodule(gate.linear).register_forward_hook(count)
        try:
            yield
        finally:
            handle.remove()
        self.counted[index] = {
            language: self._ranks.total([found.cpu()], functools.partial(torch.zeros_like, found, device="cpu"))
            for language, found in counts.items()
        }
        if self._weighs:
            self.counted[index][WEIGHTS] = _weights(block, gate).cpu()

    def counts(self, index: int) -> list[Tensor]:
        """What was counted in a block, 2×f for each language; zeros before that, and nothing where it has no gate."""
        gate = gate_of(self._checkpoint, index)
        if gate is None:
            return []
        known = self.counted.get(index, {})
        return [known.get(language, torch.zeros(HALVES, gate.channels, dtype=torch.long)) for language in self.tokens]

    def recall(self, index: int, counts: Sequence[Tensor]) -> None:
        """Take over what was counted in a block on the same text."""
        if counts:
            self.counted[index] = dict(zip(self.tokens, counts, strict=True))


def _weights(block: nn.Module, gate: Gate) -> Tensor:
    """How many weights of each neuron are not zero, and how many there are, 2×f."""
    nonzero_F = torch.zeros(gate.channels, dtype=torch.long)
    total = 0
    for name in (*gate.writers, gate.reader):
        weight_MN = cast("nn.Linear", block.get_submodule(name)).weight
        counts_N = (weight_MN != 0).sum(0 if name == gate.reader else 1)
        for part_F in counts_N.cpu().split(gate.channels):
            nonzero_F += part_F
            total += weight_MN.shape[0 if name == gate.reader else 1]
    return torch.stack([nonzero_F, torch.full_like(nonzero_F, total)])


def survey_neurons(
    dense: Watch, pruned: Watch, blocks: Mapping[int, BlockRecord], places: Mapping[int, int]
) -> NeuronSurvey | None:
    """What became of the neurons of each language; None where no block has gates.

    Args:
        dense: of the dense model.
        pruned: of the output.
        blocks: the finished blocks of the output by their position in it.
        places: the position in the output of each block of the dense model that it has.
    """
    if not dense.counted:
        return None
    kept, before = [], 0
    for index in sorted(dense.counted):
        count = next(iter(dense.counted[index].values())).shape[1]
        if index in places:
            narrowed = blocks[places[index]].feed_forward
            kept += [before + number for number in (narrowed.kept if narrowed else range(count))]
        before += count
    weights = [counts[WEIGHTS] for _, counts in sorted(pruned.counted.items())]
    return survey(
        _activity(dense),
        _activity(pruned),
        torch.tensor(kept, dtype=torch.long),
        torch.cat(weights, 1) if weights else torch.zeros(HALVES, 0, dtype=torch.long),
    )


def _activity(watch: Watch) -> Activity:
    counted = [counts for _, counts in sorted(watch.counted.items())]
    empty = torch.zeros(HALVES, 0, dtype=torch.long)
    return Activity(
        {language: torch.cat([empty, *(counts[language] for counts in counted)], 1) for language in watch.tokens},
        watch.tokens,
    )
