"""Prunes one block that is in memory, in one of three orders.

- `block`: gather statistics of all layers of the dense block, then propagate the calibration states through the pruned
  block: two forward passes, the first without the block's last product. As in the reference papers.
- `true_sequential` (GPTQ's term): solve each stage before the next runs, on inputs produced by the already pruned
  stages before it: one forward pass.
- `dense`: gather statistics of the dense block, whose own output becomes the next states: one forward pass; no layer
  sees the effect of earlier pruning.

In the former two, layers may have the dense model's output as their target (`pruning.asymmetry`). Then the text runs
through the dense block beside it, with the dense model's states, and at last through the pruned block once more.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from secateur_service.models.safetensors import TensorInfo
from secateur_service.models.streaming import StreamedModel
from secateur_service.models.tensors import DTYPES, NonFiniteError
from secateur_service.models.units import adds_to_states
from secateur_service.pipeline.batches import Batch, CalibrationText
from secateur_service.pipeline.meter import Kind
from secateur_service.pipeline.pass_config import PassConfig
from secateur_service.pipeline.stepwise import StepwiseForward, stepwise_forwards
from secateur_service.pruning.asymmetry import CrossMoments, aims
from secateur_service.pruning.budget import MIN_EXPERT_TOKENS
from secateur_service.pruning.elementwise import is_finite, nonzeros
from secateur_service.pruning.fidelity import InputSample, snr_db
from secateur_service.pruning.mask_sample import sample_mask
from secateur_service.pruning.methods import METHODS, Moments, Recipe
from secateur_service.pruning.minimax import solve_minimax
from secateur_service.pruning.patterns import Target, Unstructured
from secateur_service.pruning.ranks import Ranks, Rows
from secateur_service.pruning.solver import PrunedLayer, solve
from secateur_service.pruning.statistics import InputStatistics
from secateur_service.records.blocks import LayerRecord
from secateur_service.sizing.operations import Work

# Names of the layers of a block that share an input.
Group = Sequence[str]


@dataclass(frozen=True)
class _Block:
    """A block in memory, with its pruned layers by name, and grouped by shared input in the order it runs them."""

    model: StreamedModel
    module: nn.Module
    index: int
    groups: Sequence[Group]
    linears: Mapping[str, nn.Linear]

    @classmethod
    def of(cls, model: StreamedModel, module: nn.Module, index: int) -> Self:
        """A block of a model."""
        return cls(model, module, index, model.checkpoint.inputs(index), model.linears(module, index))


@dataclass(frozen=True)
class DenseStream:
    """The dense model beside a block that is pruned towards it.

    Attributes:
        model: the dense model.
        block: its block, in memory, not the one that is pruned.
        index: the position of the block.
        states: hidden states of the calibration text before it; replaced in place by those after it, if they are the
            goal.
        goal: those that the pruned block is to come to, where they are known already; else the dense model's after it.
    """

    model: StreamedModel
    block: nn.Module
    index: int
    states: list[Tensor]
    goal: Sequence[Tensor] | None = None


@dataclass(frozen=True)
class _Observed:
    """What is known about one distinct input of a block; nothing where the recipe needs nothing.

    Attributes:
        statistics: its second moments.
        sample: inputs to judge layers by, where the second moments of every language are not kept.
        judges: whether layers are judged.
        lacking: cross moments of the inputs with what the dense model has in addition: at the input, or at the output
            if `ends` says so; None where layers repeat their own output.
        ends: whether the layers of the input are the last, whose output is added to the hidden states.
    """

    statistics: InputStatistics | None
    sample: InputSample | None
    judges: bool
    lacking: CrossMoments | None = None
    ends: bool = False

    def update(self, inputs: Tensor, batch: Batch) -> None:
        """Add the inputs of one batch."""
        if self.statistics is not None:
            self.statistics.update(inputs, batch.language, batch.shard)
        if self.sample is not None:
            self.sample.update(inputs, batch.language, batch.start)

    def settle(self, ranks: Ranks, linear: nn.Linear) -> None:
        """Add up what all ranks know of the input of a layer."""
        weight = linear.weight
        if self.statistics is not None:
            self.statistics.settle(ranks)
        if self.sample is not None:
            self.sample.settle(ranks, weight.device, weight.dtype)
        if self.lacking is not None:
            height = weight.shape[0] if self.ends else weight.shape[1]
            self.lacking.settle(ranks, lambda: torch.zeros(height, weight.shape[1], device=weight.device))

    def aims(self, weights: list[Tensor], ranks: Ranks) -> list[Tensor]:
        """What is pruned: the dense layers, in float32, or what comes from them closest to the dense model's output."""
        if self.lacking is None:
            return weights
        assert self.statistics is not None
        gram_NN, cross = self.statistics.gram, self.lacking.matrix
        assert gram_NN is not None
        tokens = sum(self.statistics.seen.values())

        def rows_of(weight_MN: Tensor, rows: slice) -> Tensor:
            return cross[rows] if self.ends else weight_MN[rows] @ cross

        return aims(weights, [functools.partial(rows_of, weight_MN) for weight_MN in weights], gram_NN, tokens, ranks)

    def judge(
        self, dense_MN: Tensor, pruned_MN: Tensor, check: Callable[[], None], ranks: Ranks
    ) -> tuple[dict[str, float], dict[str, int]]:
        """Signal-to-noise ratios in dB by language, and the number of inputs each is computed from."""
        if self.sample is not None:
            ratios, tokens = self.sample.snr_db(dense_MN, pruned_MN, check, ranks), self.sample.tokens
        elif self.judges and self.statistics is not None:
            ratios, tokens = {}, self.statistics.seen
            for language in tokens:
                gram_NN = self.statistics.gram_of(language)
                assert gram_NN is not None
                ratio = snr_db(dense_MN, pruned_MN, gram_NN, check, ranks)
                if ratio is not None:
                    ratios[language] = ratio
        else:
            return {}, {}
        return ratios, {language: tokens[language] for language in ratios}


class BlockPruner:
    """Prunes blocks according to a config.

    Args:
        model: the blocks in the shapes to be written, but dense.
        config: what to do.
        text: the calibration text, and the ranks that have it.
        carries: whether a block's output becomes the next states; otherwise they are left as they are.
        check: called between two pieces of work; may raise to stop.
        tick: called for every counted piece of work, see `Meter.tick`.
        work: the counted work.
    """

    def __init__(
        self,
        model: StreamedModel,
        config: PassConfig,
        text: CalibrationText,
        check: Callable[[], None],
        tick: Callable[[Kind, float], None],
        work: Work,
        *,
        carries: bool = True,
    ) -> None:
        self._model = model
        self._carries = carries
        self._config = config
        self._batches = text.batches
        self._text, self._ranks = text, text.ranks
        self._check = check
        self._tick = tick
        self._work = work
        self._tokens = text.tokens
        # Of this rank's batches, as all ranks are done at about the same time.
        self._calibration_tokens = text.own_tokens

    def prune(
        self, block: nn.Module, index: int, states: list[Tensor], dense: DenseStream | None = None
    ) -> list[LayerRecord]:
        """Prune a block; afterwards its weights are as they will be written, rounded to the checkpoint's type.

        Args:
            block: in memory, dense.
            index: its position in the model.
            states: hidden states of the calibration text before the block; replaced in place by those after it, if the
                pruner carries them.
            dense: the dense model's way, where layers have its output as their target.

        Raises:
            FloatingPointError: weights or statistics that are not finite; the message names the layer.
        """
        opened = _Block.of(self._model, block, index)
        if self._config.order == "true_sequential":
            records = self._stage_by_stage(opened, states, dense)
        else:
            records = self._at_once(opened, states, dense)
        again = dense is not None or self._config.order == "block"
        if again and self._carries and not self._is_last(index):
            self.carry(self._model, block, index, states, self._work.carrying(index))
        return records

    def _at_once(self, block: _Block, states: list[Tensor], dense: DenseStream | None) -> list[LayerRecord]:
        """Prune all layers of a block after the text has run through it."""
        index = block.index
        inputs = [self._observed(block, number, dense) for number in range(len(block.groups))]
        for position, batch in enumerate(self._batches):
            with (
                self._suspended(block, states[position : position + 1]) as (forward,),
                self._beside(dense, position) as (wanted,),
            ):
                for number, observed in enumerate(inputs):
                    self._observe(observed, forward, wanted, dense, position, is_last=number + 1 == len(inputs))
                    self._tick_stage(index, number, batch)
                if self._config.order == "dense" and self._carries and not self._is_last(index):
                    states[position] = forward.finish()
                    self._tick_stage(index, -1, batch)
        records = []
        for number, observed in enumerate(inputs):
            records += self._solve(block, number, observed)
        return records

    def carry(self, model: StreamedModel, block: nn.Module, index: int, states: list[Tensor], amount: float) -> None:
        """Run the calibration states through a block as it is in memory, in place.

        Args:
            model: the model that the block belongs to.
            block: in memory.
            index: its position in the model.
            states: those before the block; replaced by those after it.
            amount: the amount of work, see `Meter.tick`.
        """
        for position, batch in enumerate(states):
            self._check()
            states[position] = model.run_block(block, index, batch)
            share = self._batches[position].tokens.numel() / self._calibration_tokens
            self._tick("calibrate", share * amount)

    def _tick_stage(self, index: int, number: int, batch: Batch) -> None:
        """Count the work of a batch that has reached an input of a block, or its end for -1."""
        share = batch.tokens.numel() / self._calibration_tokens
        self._tick("calibrate", share * self._work.stages(index)[number])

    def _stage_by_stage(self, block: _Block, states: list[Tensor], dense: DenseStream | None) -> list[LayerRecord]:
        """Prune the layers of each input before the text runs through them."""
        records = []
        with self._suspended(block, states) as forwards, self._beside(dense) as others:
            for number in range(len(block.groups)):
                observed = self._observed(block, number, dense)
                for position, (batch, forward, other) in enumerate(zip(self._batches, forwards, others, strict=True)):
                    self._check()
                    is_last = number + 1 == len(block.groups)
                    self._observe(observed, forward, other, dense, position, is_last=is_last)
                    self._tick_stage(block.index, number, batch)
                records += self._solve(block, number, observed)
            if dense is None and self._carries and not self._is_last(block.index):
                for position, (batch, forward) in enumerate(zip(self._batches, forwards, strict=True)):
                    self._check()
                    states[position] = forward.finish()
                    self._tick_stage(block.index, -1, batch)
        return records

    def _observe(
        self,
        observed: _Observed,
        forward: StepwiseForward,
        other: StepwiseForward | None,
        dense: DenseStream | None,
        position: int,
        *,
        is_last: bool,
    ) -> None:
        """Take what a batch has at the next input, and what the dense model has there."""
        batch, inputs = self._batches[position], forward.advance()
        observed.update(inputs, batch)
        if dense is None or other is None:
            return
        wanted, reached = other.advance(), inputs
        if is_last and dense.goal is None:
            dense.states[position] = other.finish()
        if observed.ends:
            goal = dense.states if dense.goal is None else dense.goal
            wanted, reached = goal[position].to(inputs.device), forward.finish().to(inputs.device)
        if observed.lacking is not None:
            observed.lacking.update(wanted.float() - reached.float(), inputs, batch.language, batch.shard)

    def _suspended(
        self, block: _Block, states: Sequence[Tensor]
    ) -> contextlib.AbstractContextManager[list[StepwiseForward]]:
        """One pass of the block for each batch of states; none has started."""
        self._check()
        runs = [functools.partial(block.model.run_block, block.module, block.index, batch) for batch in states]
        return stepwise_forwards(runs, block.groups, block.linears)

    def _beside(
        self, dense: DenseStream | None, position: int | None = None
    ) -> contextlib.AbstractContextManager[Sequence[StepwiseForward | None]]:
        """The same of the dense block, of all batches or one; nothing for each where there is none."""
        batches = slice(None) if position is None else slice(position, position + 1)
        if dense is None:
            return contextlib.nullcontext([None] * len(self._batches[batches]))
        return self._suspended(_Block.of(dense.model, dense.block, dense.index), dense.states[batches])

    def _is_last(self, index: int) -> bool:
        return index + 1 == self._model.num_blocks

    def _observed(self, block: _Block, number: int, dense: DenseStream | None) -> _Observed:
        """Empty statistics and sample for one input."""
        group = block.groups[number]
        width, device = block.linears[group[0]].in_features, self._model.device
        is_expert = self._model.checkpoint.expert_of(group[0]) is not None
        judges = self._config.layer_snr and any(self._tokens.values())
        sample = None
        if judges and not self._work.has_language_grams:
            heights = [block.linears[name].out_features for name in group]
            experts = max(entry.experts for entry in self._work.blocks[block.index]) if self._work.all_open else 0
            sample = InputSample(
                self._tokens,
                width,
                heights,
                is_expert=is_expert,
                open_experts=experts if is_expert else 0,
            )
        if self._config.moments is Moments.NONE:
            return _Observed(None, sample, judges)
        statistics = InputStatistics(
            width, self._config.mix, self._tokens, device, moments=self._config.moments, is_expert=is_expert
        )
        if dense is None or is_expert:  # the dense model routes other tokens to an expert
            return _Observed(statistics, sample, judges)
        ends = number + 1 == len(block.groups) and adds_to_states(self._model.checkpoint)
        # A layer that lost inputs has no counterparts of the dense model's. If no layer of a block sees what the others
        # lose, all but the last would make up for the same together, and so for too much.
        is_one = self._config.order == "true_sequential" and dense.block.get_submodule(group[0]).in_features == width
        lacking = CrossMoments(self._config.mix, self._tokens) if ends or is_one else None
        return _Observed(statistics, sample, judges, lacking, ends)

    def _solve(self, block: _Block, number: int, observed: _Observed) -> list[LayerRecord]:
        """Prune the layers of one input; those with equal targets together, if they share a factorisation."""
        group = block.groups[number]
        observed.settle(self._ranks, block.linears[group[0]])
        infos = {name: self._model.checkpoint.linear_weight(block.index, name) for name in group}
        targets = {name: self._config.targets.get(infos[name].name) for name in group}
        alike: dict[object, list[str]] = {}
        for name in group:
            alike.setdefault(targets[name] if self._config.moments >= Moments.FULL else name, []).append(name)
        records = {}
        amount = self._work.choosing(self._work.blocks[block.index][number]) / len(alike)
        for names in alike.values():
            self._check()
            target = targets[names[0]]
            try:
                dense = [block.linears[name].weight.float() for name in names]
                towards = dense if target is None else observed.aims(dense, self._ranks)
                del dense
                solved, mix = self._solve_alike(towards, observed, target, names)
            except NonFiniteError:  # of a block that is being written meanwhile, and named
                raise
            except FloatingPointError as error:
                raise FloatingPointError(f"{infos[names[0]].name}: {error}") from error
            for name in names:  # free each layer once applied: memory for one layer, not for the group
                linear, aim_MN = block.linears[name], towards.pop(0)
                records[name] = self._apply(linear, infos[name], aim_MN, solved.pop(0), observed, mix)
            self._tick("solve", amount)
        return [records[name] for name in group]

    def _solve_alike(
        self, dense: list[Tensor], observed: _Observed, target: Target | None, names: Sequence[str]
    ) -> tuple[list[PrunedLayer], Mapping[str, float]]:
        """Prune layers of one input to one target; also returns the mix if it was searched for."""
        statistics = observed.statistics
        if target is None:
            own = [weight[Rows(len(weight), self._ranks, weight.device).all] for weight in dense]
            return [PrunedLayer(weight, torch.zeros_like(weight, dtype=torch.bool)) for weight in own], {}
        if statistics is not None and self._model.checkpoint.expert_of(names[0]) is not None:
            method, reason = _affordable(self._config.recipe, sum(statistics.seen.values()), dense[0].shape[1])
            if method is not None:
                target = _as_by(method, target)
                layers = solve(Recipe.of(method), dense, statistics, target, self._check, self._ranks)
                note = f"{reason}; pruned by {_described(method, target)}"
                return [PrunedLayer(layer.weight, layer.pruned, (*layer.notes, note)) for layer in layers], {}
        if self._config.minimax and statistics is not None:
            return solve_minimax(self._config.recipe, dense, statistics, target, self._check, self._ranks)
        return solve(self._config.recipe, dense, statistics, target, self._check, self._ranks), {}

    def _apply(
        self,
        linear: nn.Linear,
        info: TensorInfo,
        aim_MN: Tensor,
        layer: PrunedLayer,
        observed: _Observed,
        mix: Mapping[str, float],
    ) -> LayerRecord:
        rows = Rows(len(aim_MN), self._ranks, aim_MN.device)
        rounded = self._ranks.gather(layer.weight.to(DTYPES[info.dtype]), rows.sizes)
        target, notes = sum(self._ranks.collect([nonzeros(layer.pruned)])), layer.notes
        del layer
        if not is_finite(rounded):
            raise FloatingPointError(f"{info.name}: the update produced weights that are not finite")
        # In the block's type, as its inputs are.
        ratios, tokens = observed.judge(aim_MN.to(linear.weight.dtype), rounded, self._check, self._ranks)
        linear.weight.copy_(rounded)
        zeros = rounded.numel() - nonzeros(rounded)
        if zeros > target:
            notes = (*notes, f"{zeros - target} weights were zero without being pruned")
        shape, sample = (rounded.shape[0], rounded.shape[1]), sample_mask(info.name, rounded)
        return LayerRecord(info.name, shape, zeros, notes, ratios, dict(mix), tokens, sample)


def _affordable(recipe: Recipe, tokens: int, width: int) -> tuple[str | None, str]:
    """The method for an expert's layers that saw too few tokens for the recipe, and why; None if they saw enough.

    Second moments of fewer tokens than features would lead to overfitting.
    """
    if recipe.moments is not Moments.NONE and tokens < MIN_EXPERT_TOKENS:
        return "magnitude", f"expert saw {tokens} tokens"
    if recipe.moments is Moments.FULL and tokens < width:
        return "wanda", f"expert saw {tokens} tokens for {width} inputs"
    return None, ""


def _as_by(method: str, target: Target) -> Target:
    """The same amount, with weights competing as they do by default in the method; a pattern stays a pattern."""
    return replace(target, group=METHODS[method].group) if isinstance(target, Unstructured) else target


def _described(method: str, target: Target) -> str:
    """A method, and which weights competed: "wanda, within rows"."""
    if isinstance(target, Unstructured):
        return f"{method}, within {'rows' if target.group == 'row' else 'the layer'}"
    return f"{method}, {target.kept}:{target.group}"
