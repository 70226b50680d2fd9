"""Narrows a block in memory: chooses heads and channels, and re-solves the projections that read them.

The statistics are those of the calibration text on the output side, as it arrives at the dense block: earlier blocks
are narrow and pruned already. Attention comes first, so that the channels are chosen for what it still produces.

The projection that reads the channels writes into the hidden states that all later blocks read, so it also makes up for
what they have lost so far: its target is the dense model's hidden states after the block. So it is solved anew too
where only heads or whole blocks are removed. Not so where its output is normalised before it is added, and in mixtures
of experts, where each expert is narrowed by the tokens that are routed to it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur_service.models.plan import OutputPlan
from secateur_service.models.streaming import StreamedModel
from secateur_service.models.tensors import NonFiniteError
from secateur_service.models.units import KeptUnits, Units, units_of
from secateur_service.pipeline.batches import CalibrationText
from secateur_service.pipeline.stepwise import stepwise_forwards
from secateur_service.pruning.asymmetry import CrossMoments
from secateur_service.pruning.budget import MIN_EXPERT_TOKENS
from secateur_service.pruning.methods import Moments
from secateur_service.pruning.statistics import InputStatistics
from secateur_service.pruning.structured.width import (
    Loss,
    choose_channels,
    choose_heads,
    losses,
    resolve,
)
from secateur_service.records.blocks import Axis, NarrowedRecord

Tensors = dict[str, Tensor]
Narrowed = Mapping[Axis, NarrowedRecord]


@dataclass(frozen=True)
class _Inputs:
    """What is known about the inputs of a projection.

    Attributes:
        statistics: second moments by language.
        drift: cross moments with what its output should have in addition; None if nothing is known of that.
    """

    statistics: InputStatistics
    drift: CrossMoments | None


class Narrower:
    """Narrows blocks according to a plan.

    Args:
        plan: with the number of units that are kept, by axis.
        model: the output model, whose arguments the blocks are run with.
        mix: weight of each calibration language.
        text: the calibration text, and the ranks that have it.
        check: called between two pieces of work; may raise to stop.
        units: those to keep, where that is known.
    """

    def __init__(
        self,
        plan: OutputPlan,
        model: StreamedModel,
        mix: Mapping[str, float],
        text: CalibrationText,
        check: Callable[[], None],
        units: KeptUnits,
    ) -> None:
        self._units = units
        self._plan = plan
        self._model = model
        self._mix = dict(mix)
        self._batches = text.batches
        self._tokens = text.tokens
        self._ranks = text.ranks
        self._check = check

    def narrow(
        self,
        block: nn.Module,
        index: int,
        place: int,
        stored: Tensors,
        states: Sequence[Tensor],
        goal: Sequence[Tensor] | None,
    ) -> tuple[Tensors, Narrowed]:
        """The narrow tensors of a block, and what they lose.

        Args:
            block: the dense block, in memory; as it was afterwards.
            index: its position in the dense model.
            place: its position in the output.
            stored: its tensors by dense name, as stored.
            states: hidden states of the calibration text before the block.
            goal: those of the dense model after the block; None if they are not to be reached.

        Raises:
            FloatingPointError: weights or statistics that are not finite; the message names the layer.
        """
        stored = self._plan.dense.oriented(stored)
        cut: Tensors = {}
        records: dict[Axis, NarrowedRecord] = {}
        with contextlib.ExitStack() as changed:
            for axis in self._plan.solved_axes:
                units = units_of(self._plan.dense, index, axis)
                numbers: list[int] = []
                found: dict[str, Loss] = {}
                followed = goal if axis == "feed_forward" else None
                with contextlib.closing(self._observed(block, place, units, states, followed)) as observed:
                    for one, inputs in observed:
                        weight_MN = stored[one.output.name].to(self._model.device)
                        solve = functools.partial(self._solve, axis, index, one, weight_MN, inputs)
                        try:
                            kept, solved_MK, lost = self._ranks.share(solve)
                        except NonFiniteError:  # of a block that is being written meanwhile, and named
                            raise
                        except FloatingPointError as error:
                            raise FloatingPointError(f"{one.output.name}: {error}") from error
                        cut[one.output.name] = solved_MK.cpu()
                        cut |= {
                            name: stored[name].index_select(0, torch.tensor(one.rows_of(name, kept)))
                            for name in one.inputs
                        }
                        numbers += [one.first + unit for unit in kept]
                        found = {language: found.get(language, Loss()) + loss for language, loss in lost.items()}
                if axis != self._plan.solved_axes[-1]:  # the next axis sees the block without these units
                    (one,) = units
                    columns = torch.tensor(one.columns_of(numbers), device=self._model.device)
                    changed.enter_context(_with_columns(_linear(block, one), columns, cut[one.output.name]))
                before = sum(one.count for one in units)
                if len(numbers) < before:
                    errors = {language: loss.share for language, loss in found.items()}
                    records[axis] = NarrowedRecord(tuple(numbers), before, errors, len(units))
        return self._plan.dense.oriented(cut), records

    def placeholders(self, index: int, stored: Tensors) -> Tensors:
        """Tensors of the right shapes, for a block whose values come from its shard."""
        cut = {}
        for axis in self._plan.solved_axes:
            for units in units_of(self._plan.dense, index, axis):
                for name, sizes in units.sizes(self._plan.narrowed.get(axis, units.count)):
                    tensor = stored[name]
                    for dimension, size in sizes.items():
                        tensor = tensor.narrow(dimension, 0, size)
                    cut[name] = tensor.contiguous()
        return cut

    def _solve(
        self, axis: Axis, index: int, units: Units, weight_MN: Tensor, inputs: _Inputs
    ) -> tuple[list[int], Tensor, dict[str, Loss]]:
        """The units to keep, the projection on their columns, and what is lost by language."""
        grams = {name: inputs.statistics.language_gram(name) for name, share in self._mix.items() if share}
        gram_NN, count = inputs.statistics.gram, self._plan.narrowed.get(axis, units.count)
        assert gram_NN is not None
        if sum(inputs.statistics.seen.values()) < MIN_EXPERT_TOKENS:
            gram_NN = torch.eye(len(gram_NN), device=gram_NN.device)  # by the norms of columns alone
        self._check()
        if axis in self._units:
            kept = units.among(self._units[axis][index])
        elif axis == "attention":
            kept = choose_heads(weight_MN, gram_NN, count, units.columns).tolist()
        else:
            kept = choose_channels(weight_MN, gram_NN, count).tolist()
        self._check()
        columns = torch.tensor(units.columns_of(kept), device=weight_MN.device)
        drift_MN = inputs.drift.matrix if inputs.drift else None
        solved_MK = resolve(weight_MN, gram_NN, columns, drift_MN).to(weight_MN.dtype).contiguous()
        # What goes with the units, apart from what the projection does about earlier blocks.
        alone_MK = solved_MK if drift_MN is None else resolve(weight_MN, gram_NN, columns)
        return kept, solved_MK, losses(weight_MN, alone_MK, columns, grams)

    def _observed(
        self,
        block: nn.Module,
        place: int,
        units: Sequence[Units],
        states: Sequence[Tensor],
        goal: Sequence[Tensor] | None,
    ) -> Generator[tuple[Units, _Inputs], None, None]:
        """The inputs of each projection that reads units of an axis."""
        if any(self._is_experts(one) for one in units):
            yield from self._observed_experts(block, place, units, states)
        else:
            for one in units:
                yield one, self._observe(block, place, one, states, goal)

    def _observed_experts(
        self, block: nn.Module, place: int, units: Sequence[Units], states: Sequence[Tensor]
    ) -> Iterator[tuple[Units, _Inputs]]:
        """The inputs of every expert, one after the other, while all text waits in the block.

        So there are second moments of one expert at a time.
        """
        linears = {one.linear: _linear(block, one) for one in units}
        runs = [functools.partial(self._model.run_block, block, place, before) for before in states]
        with stepwise_forwards(runs, [(name,) for name in linears], linears) as forwards:
            for one in units:
                statistics = self._statistics(one, linears[one.linear])
                for batch, forward in zip(self._batches, forwards, strict=True):
                    self._check()
                    statistics.update(forward.advance(), batch.language, batch.shard)
                statistics.settle(self._ranks)
                _require_finite(statistics, one, place)
                yield one, _Inputs(statistics, None)

    def _observe(
        self, block: nn.Module, place: int, units: Units, states: Sequence[Tensor], goal: Sequence[Tensor] | None
    ) -> _Inputs:
        """The inputs of the projection that reads the units."""
        linear = _linear(block, units)
        statistics = self._statistics(units, linear)
        drift = CrossMoments(self._mix, self._tokens) if goal is not None else None
        for position, (batch, before) in enumerate(zip(self._batches, states, strict=True)):
            self._check()
            run = functools.partial(self._model.run_block, block, place, before)
            with stepwise_forwards([run], [(units.linear,)], {units.linear: linear}) as (forward,):
                inputs = forward.advance()
                statistics.update(inputs, batch.language, batch.shard)
                if drift is not None and goal is not None:
                    reached = forward.finish().to(self._model.device).float()
                    wanted = goal[position].to(self._model.device).float() - reached
                    drift.update(wanted, inputs, batch.language, batch.shard)
        statistics.settle(self._ranks)
        if drift is not None:
            drift.settle(self._ranks, lambda: torch.zeros(linear.weight.shape, device=self._model.device))
        _require_finite(statistics, units, place)
        return _Inputs(statistics, drift)

    def _statistics(self, units: Units, linear: nn.Linear) -> InputStatistics:
        return InputStatistics(
            linear.in_features,
            self._mix,
            self._tokens,
            self._model.device,
            moments=Moments.BY_LANGUAGE,
            is_expert=self._is_experts(units),
        )

    def _is_experts(self, units: Units) -> bool:
        return self._plan.dense.expert_of(units.linear) is not None


def _linear(block: nn.Module, units: Units) -> nn.Linear:
    linear = block.get_submodule(units.linear)
    assert isinstance(linear, nn.Linear)
    return linear


def _require_finite(statistics: InputStatistics, units: Units, place: int) -> None:
    if not statistics.is_finite():
        raise FloatingPointError(f"{units.linear} of block {place}: its inputs are not finite")


@contextlib.contextmanager
def _with_columns(linear: nn.Linear, columns: Tensor, solved_MK: Tensor) -> Iterator[None]:
    """The layer with only these columns, for the duration of the context, so that it computes what it will."""
    dense_MN = linear.weight.clone()
    try:
        linear.weight.zero_()
        linear.weight[:, columns] = solved_MK.to(linear.weight)
        yield
    finally:
        linear.weight.copy_(dense_MN)
