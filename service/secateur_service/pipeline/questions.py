"""The requests of tasks on their way through a streamed model: they travel with the evaluation text.

No block is read again for them. What several requests have in common runs once: answers of one token to the same
question are one sequence, and the answers to one question share the question (`models.branches`). Padding is on the
right, where a causal model does not see it.

Shapes: R sequences, K tokens of the longest rest, d hidden size.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur_service.models.branches import Branches, Rests, TokenSequence, branch, may_share
from secateur_service.models.measurements import TargetScores
from secateur_service.models.streaming import StreamedModel
from secateur_service.pipeline.batches import batch_sequences
from secateur_service.tasks.requests import Answer, Request


@dataclass(frozen=True)
class Questions:
    """All requests, in the tokens of one model.

    Attributes:
        requests: as the tasks make them.
        sequences: the distinct sequences that run through the model; the last token of a request does not.
        sequence_of: the number of each request's sequence.
        branches: the sequences in batches.
    """

    requests: Sequence[Request]
    sequences: Sequence[TokenSequence]
    sequence_of: Sequence[int]
    branches: Sequence[Branches]

    @classmethod
    def of(cls, requests: Sequence[Request], model: StreamedModel) -> Questions:
        """Divide requests into batches for a model."""
        needed: dict[tuple[int, ...], int] = {}
        for request in requests:
            run = request.tokens[:-1]
            needed[run] = max(needed.get(run, 0), request.scored)
        sequences = [TokenSequence(tokens, count) for tokens, count in needed.items()]
        numbers = {tokens: number for number, tokens in enumerate(needed)}
        tokens = batch_sequences(1, model.device, small=model.small_batches)
        return cls(
            requests,
            sequences,
            [numbers[request.tokens[:-1]] for request in requests],
            branch(sequences, tokens, shares=may_share(model.checkpoint.text_config, model.checkpoint.architecture)),
        )

    @property
    def tokens(self) -> int:
        """Tokens that run through every block, with padding."""
        return sum(each.tokens for each in self.branches)

    @property
    def groups(self) -> list[list[int]]:
        """The group that each of the sequences of all rests belongs to, for every rest."""
        return [rests.groups.tolist() for rests in self._rests]

    @property
    def scored(self) -> int:
        """Tokens whose predictions are needed."""
        return sum(sequence.needed for sequence in self.sequences)

    def propagate(
        self,
        model: StreamedModel,
        block: nn.Module,
        index: int,
        states: list[Tensor],
        on_tokens: Callable[[int], None],
    ) -> None:
        """Run the hidden states of all parts of the branches through a block, in place.

        Args:
            model: whose block it is.
            block: in memory.
            index: its position.
            states: as `StreamedModel.embed` returns them.
            on_tokens: called with the number of tokens of every batch that is done; may raise to stop.
        """
        start = 0
        for each in self.branches:
            place = slice(start, start + len(each.parts))
            states[place] = model.run_branches(block, index, each, states[place])
            on_tokens(each.tokens)
            start = place.stop

    def scores(self, states: list[Tensor], check: Callable[[], None] = lambda: None) -> list[TargetScores]:
        """What a head is to measure for the requests; nothing where there are none.

        Args:
            states: hidden states of all parts after the last block; emptied.
            check: called when states are dropped.
        """
        if not self.requests:
            return []
        positions, _, targets = self._scored_tokens
        needed = self._needed(states)
        check()
        return [TargetScores(needed, positions, targets)]

    def answers(self, scores: Sequence[TargetScores]) -> list[Answer]:
        """What the model says to each request.

        Args:
            scores: what `scores` returned, measured by now.

        Raises:
            FloatingPointError: a log-likelihood is not finite.
        """
        return [answer for each in scores for answer in self._summed(*each.found())]

    @functools.cached_property
    def _scored_tokens(self) -> Tensor:
        """For each of the scored tokens in ascending order of the first, 3×M: needed state, request, token."""
        starts = self._starts()
        triples = sorted(
            (starts[sequence] + self.sequences[sequence].needed - request.scored + step, number, token)
            for number, (request, sequence) in enumerate(zip(self.requests, self.sequence_of, strict=True))
            for step, token in enumerate(request.tokens[-request.scored :])
        )
        return torch.tensor(triples).t().contiguous()

    def _summed(self, nats: Tensor, is_greedy: Tensor) -> list[Answer]:
        """The answers from what is known of every scored token, M."""
        owners = self._scored_tokens[1]
        totals = torch.zeros(len(self.requests), dtype=torch.float64).index_add_(0, owners, nats).tolist()
        misses = torch.zeros(len(self.requests), dtype=torch.long).index_add_(0, owners, (~is_greedy).long()).tolist()
        if not all(map(math.isfinite, totals)):
            raise FloatingPointError("log-likelihoods of tasks that are not finite")
        return [Answer(total, missed == 0) for total, missed in zip(totals, misses, strict=True)]

    @property
    def _rests(self) -> list[Rests]:
        return [rests for each in self.branches for rests in each.rests]

    def _starts(self) -> list[int]:
        """Where the needed states of each sequence start among those of all."""
        starts, count = [0] * len(self.sequences), 0
        for rests in self._rests:
            for sequence in rests.numbers:
                starts[sequence] = count
                count += self.sequences[sequence].needed
        return starts

    def _needed(self, states: list[Tensor]) -> Tensor:
        """The needed states, N×d; the others are dropped."""
        of_parts = iter(states)
        of_rests: list[Tensor] = []
        for each in self.branches:
            if each.shared:
                next(of_parts)
            of_rests += itertools.islice(of_parts, len(each.rests))
        parts = [
            row[end - self.sequences[number].needed : end]
            for rests, part in zip(self._rests, of_rests, strict=True)
            for number, row, end in zip(rests.numbers, part, rests.lengths, strict=True)
        ]
        states.clear()
        return torch.cat(parts)
