"""Finds the blocks that can go: by the loss of each language without them, with what makes up for them counted in.

One block is removed after the other. In each round the text runs once through all blocks that are left, and beside it,
for every block, a copy that leaves this block out: it starts at the block's input, corrected by what the feed-forward
layers before it can add, and runs through the blocks that follow. Every block is read once a round. What is fitted is
fitted to three quarters of the text; losses are those of the rest. The block goes whose loss costs the dearest language
least, as in SLEB (Song et al., arXiv 2402.09025) but by language.

The correction is the least squares of `pruning.structured.width` with all channels kept: the projection has to add what
the block added to the hidden states. A linear map in place of a block is the idea of ReplaceMe (Shopkhoev et al., arXiv
2505.02819), whose map lies between hidden states; here it has the wider inputs of the projection, and the shape of the
model stays as servers know it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from secateur_service.calibration.sampling import TextSample
from secateur_service.evaluation.scoring import Scored
from secateur_service.models.depth import removable
from secateur_service.models.measurements import TokenLosses
from secateur_service.models.streaming import StreamedModel
from secateur_service.models.tensors import DTYPES
from secateur_service.models.units import adds_to_states
from secateur_service.pipeline.batches import Batch, CalibrationText, batch_sequences, divide
from secateur_service.pipeline.meter import Meter
from secateur_service.pipeline.stepwise import stepwise_forwards
from secateur_service.pruning.asymmetry import CrossMoments
from secateur_service.pruning.methods import Moments
from secateur_service.pruning.ranks import ALONE, Ranks
from secateur_service.pruning.statistics import InputStatistics
from secateur_service.pruning.structured.width import resolve
from secateur_service.sizing.depth import SCORED_EVERY, Kind, depth_sequences, search_operations
from secateur_service.sizing.operations import forward_operations

Growth = dict[str, float]
TooMuch = Callable[[Growth], bool]


@dataclass(frozen=True)
class Removal:
    """A block that was removed.

    Attributes:
        block: its number in the dense model.
        growth: by language, how much larger than the dense model's the loss is without it and those before it.
    """

    block: int
    growth: Growth


@dataclass(frozen=True)
class Depth:
    """What was found.

    Attributes:
        removals: in their order.
        solved: weights that make up for removed blocks, by their name in the checkpoint.
    """

    removals: tuple[Removal, ...]
    solved: dict[str, Tensor]


class RemoveBlocks(Protocol):
    """Removes blocks of a model, as `DepthSearch.remove` does."""

    def __call__(self, count: int, order: Sequence[int] = (), too_much: TooMuch = ..., /) -> Depth:
        """See `DepthSearch.remove`."""


@dataclass
class _Passed:
    """What the text left at a block: its hidden states after it, and the inputs of the layer that can make up."""

    index: int
    inputs: list[Tensor]
    states: list[Tensor]


class DepthSearch:
    """A search through one model.

    Args:
        model: the dense model.
        mix: weight of each calibration language.
        languages: those whose losses count.
        calibration: text by language.
        meter: counts the work, and stops the job if it is asked to.
        ranks: who has the text; all get the result.
    """

    def __init__(
        self,
        model: StreamedModel,
        mix: Mapping[str, float],
        languages: Sequence[str],
        calibration: Mapping[str, TextSample],
        meter: Meter,
        ranks: Ranks = ALONE,
    ) -> None:
        self._model = model
        self._mix = {name: weight for name, weight in mix.items() if weight}
        self._meter = meter
        self._ranks = ranks
        length = next(iter(calibration.values())).tokens.shape[1]
        count = depth_sequences(length, len(self._mix))
        used = {name: calibration[name].tokens[:count] for name in self._mix}
        is_scored = {
            name: torch.arange(len(tokens)) % SCORED_EVERY == SCORED_EVERY - 1 for name, tokens in used.items()
        }
        few = min(map(len, used.values())) < SCORED_EVERY
        size = batch_sequences(length, model.device, small=model.small_batches)
        fitted = divide({name: used[name][~is_scored[name] | few] for name in used}, size)
        scored = divide({name: used[name][is_scored[name] | few] for name in languages}, size)
        self._fitted = CalibrationText.of(fitted, self._mix, ranks)
        self._scored = CalibrationText.of(scored, languages, ranks)
        self._batches = [*self._fitted.batches, *self._scored.batches]
        self._needed = torch.unique(torch.cat([batch.tokens.flatten() for batch in (*fitted, *scored)]))
        self._masks = {
            name: Scored(
                calibration[name].token_bytes[:count][is_scored[name] | few],
                calibration[name].is_text[:count][is_scored[name] | few],
            )
            for name in languages
        }
        checkpoint = model.checkpoint
        layout = checkpoint.architecture.feed_forward
        self._output = layout.output if layout and adds_to_states(checkpoint) else None
        each = [forward_operations(checkpoint, index, 1, length) for index in range(model.num_blocks)]
        self._forward = sum(each) / len(each)

    @torch.no_grad()
    def remove(self, count: int, order: Sequence[int] = (), too_much: TooMuch = lambda _: False) -> Depth:
        """Remove blocks.

        Args:
            count: how many.
            order: which ones, if that is known.
            too_much: whether a growth is too much; the search ends before it. The first rank's decides.

        Raises:
            FloatingPointError: weights, inputs or losses that are not finite.
        """
        chain = list(range(self._model.num_blocks))
        solved: dict[int, Tensor] = {}
        removals: list[Removal] = []
        dense: dict[str, float] = {}
        self._meter.lap()
        work = self._work(count, len(order) > 0)
        self._meter.detail(sum(work.values()))
        for kind, amount in work.items():
            self._meter.plan(kind, amount)
        for number in range(count):
            candidates = [order[number]] if order else removable(self._model.checkpoint, chain)
            losses, corrected, found = self._round(chain, solved, candidates)
            dense = dense or found
            growth = {block: {name: nats[name] / dense[name] - 1 for name in dense} for block, nats in losses.items()}
            block = min(growth, key=lambda index: (max(growth[index].values()), index))
            if self._ranks.share(functools.partial(too_much, growth[block])):
                for kind, amount in self._work(number + 1, is_known=False).items():
                    self._meter.skip(kind, work[kind] - amount)
                break
            removals.append(Removal(block, growth[block]))
            place = chain.index(block)
            if block in corrected:
                solved[chain[place - 1]] = corrected[block]
            chain.remove(block)
            solved.pop(block, None)
        return Depth(
            tuple(removals), {self._name(index): self._stored(index, solved[index]) for index in sorted(solved)}
        )

    def _work(self, count: int, is_known: bool) -> Mapping[Kind, float]:  # noqa: FBT001
        fitted, scored = (sum(some.tokens.values()) for some in (self._fitted, self._scored))
        blocks, each = self._model.num_blocks, self._forward
        vocabulary, hidden = self._model.checkpoint.tensors[self._model.checkpoint.head_name].shape
        copies = count if is_known else None
        return search_operations(blocks, count, fitted, scored, each, 2.0 * vocabulary * hidden, copies)

    def _round(
        self, chain: Sequence[int], solved: Mapping[int, Tensor], candidates: Sequence[int]
    ) -> tuple[dict[int, dict[str, float]], dict[int, Tensor], dict[str, float]]:
        """Losses without each candidate, the weight that makes up for it, and the losses without any of them gone."""
        fitted, scored = len(self._fitted.batches), self._scored.batches
        states = self._model.embed([batch.tokens for batch in self._batches], needed=self._needed)
        copies: dict[int, list[Tensor]] = {}
        corrected: dict[int, Tensor] = {}
        before: _Passed | None = None
        for index in chain:
            with self._model.block(index) as block:
                if index in solved:
                    self._model.load_into(index, self._model.checkpoint.oriented({self._name(index): solved[index]}))
                for copy in copies.values():
                    for position, batch in enumerate(copy):
                        copy[position] = self._model.run_block(block, index, batch)
                        self._tick(self._scored, scored[position])
                passed = self._pass(block, index, states)
            if index in candidates:
                copies[index] = states[fitted:]
                if before is not None and self._output is not None:
                    weight_MN = self._weight(before.index, solved)
                    corrected[index] = self._solve(weight_MN, before, states, passed)
                    self._correct(copies[index], before, corrected[index] - weight_MN)
            before, states = passed, passed.states
        self._meter.check()
        ends = [states[fitted:], *copies.values()]
        tokens = [batch.tokens for batch in scored]
        found = [TokenLosses(end, tokens, self._model.device) for end in ends]
        self._model.head.measure(found, self._tick_head, is_read=self._ranks.count > 1)
        nats = [self._by_language(self._ranks.collect(each.losses())) for each in found]
        return dict(zip(copies, nats[1:], strict=True)), corrected, nats[0]

    def _pass(self, block: nn.Module, index: int, states: Sequence[Tensor]) -> _Passed:
        """Run all text through a block."""
        passed = _Passed(index, [], [])
        for position, (batch, hidden) in enumerate(zip(self._batches, states, strict=True)):
            run = functools.partial(self._model.run_block, block, index, hidden)
            if self._output is None:
                passed.states.append(run())
            else:
                linear = block.get_submodule(self._output)
                assert isinstance(linear, nn.Linear)
                with stepwise_forwards([run], [(self._output,)], {self._output: linear}) as (forward,):
                    passed.inputs.append(self._model.put_aside(forward.advance()))
                    passed.states.append(forward.finish())
            self._tick(self._fitted if position < len(self._fitted.batches) else self._scored, batch)
        return passed

    def _solve(self, weight_MN: Tensor, before: _Passed, states: Sequence[Tensor], passed: _Passed) -> Tensor:
        """The projection before a block that adds what the block adds."""
        device = self._model.device
        tokens = self._fitted.tokens
        statistics = InputStatistics(weight_MN.shape[1], self._mix, tokens, device, moments=Moments.FULL)
        cross = CrossMoments(self._mix, tokens)
        for position, batch in enumerate(self._fitted.batches):
            self._meter.check()
            inputs = before.inputs[position].to(device)
            statistics.update(inputs, batch.language, batch.shard)
            missing = passed.states[position].to(device).float() - states[position].to(device).float()
            cross.update(missing, inputs, batch.language, batch.shard)
        statistics.settle(self._ranks)
        cross.settle(self._ranks, lambda: torch.zeros(weight_MN.shape, device=device))
        gram_NN = statistics.gram
        assert gram_NN is not None
        every = torch.arange(weight_MN.shape[1], device=device)
        solve = functools.partial(resolve, weight_MN, gram_NN, every, cross.matrix)
        try:
            return self._ranks.compute(solve, lambda: torch.empty_like(weight_MN))
        except FloatingPointError as error:
            raise FloatingPointError(f"{self._name(before.index)}: {error}") from error

    def _correct(self, copy: list[Tensor], before: _Passed, change_MN: Tensor) -> None:
        """Add what the layer before a block adds in its place."""
        weight_MN = change_MN.to(self._model.dtype)
        for position, hidden in enumerate(copy):
            inputs = before.inputs[len(self._fitted.batches) + position].to(self._model.device)
            added = (inputs @ weight_MN.T).view(hidden.shape)
            copy[position] = self._model.put_aside(hidden.to(self._model.device) + added)

    def _by_language(self, losses: Sequence[Tensor]) -> dict[str, float]:
        collected: dict[str, list[Tensor]] = {name: [] for name in self._masks}
        for batch, values in zip(self._scored.all_batches, losses, strict=True):
            collected[batch.language].append(values)
        return {name: self._masks[name].losses(values).nats for name, values in collected.items()}

    def _tick(self, text: CalibrationText, batch: Batch) -> None:
        self._meter.tick("calibrate", text.pace * batch.tokens.numel() * self._forward)

    def _tick_head(self, amount: float) -> None:
        self._meter.tick("head", self._scored.pace * amount)

    def _name(self, index: int) -> str:
        assert self._output is not None
        return self._model.checkpoint.linear_weight(index, self._output).name

    def _weight(self, index: int, solved: Mapping[int, Tensor]) -> Tensor:
        if index in solved:
            return solved[index]
        assert self._output is not None
        return self._model.weight(index, self._output).to(self._model.device).double()

    def _stored(self, index: int, weight_MN: Tensor) -> Tensor:
        """A weight as it is written."""
        checkpoint, name = self._model.checkpoint, self._name(index)
        return checkpoint.oriented({name: weight_MN})[name].to(DTYPES[checkpoint.tensors[name].dtype])
