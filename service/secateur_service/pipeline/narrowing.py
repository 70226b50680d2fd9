"""Narrows a block in memory: chooses heads and channels, and re-solves the projections that read them.

The statistics are those of the calibration text on the output side, as it arrives at the dense block: earlier blocks
are narrow and pruned already. Attention comes first, so that the channels are chosen for what it still produces.

The projection that reads the channels writes into the hidden states that all later blocks read, so it also makes up for
what they have lost so far: its target is the dense model's hidden states after the block. So it is solved anew too
where only heads or whole blocks are removed. Not so where its output is normalised before it is added.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur_service.models.plan import OutputPlan
from secateur_service.models.streaming import StreamedModel
from secateur_service.models.units import KeptUnits, Units, units_of
from secateur_service.pipeline.batches import Batch
from secateur_service.pipeline.stepwise import stepwise_forwards
from secateur_service.pruning.methods import Moments
from secateur_service.pruning.statistics import InputStatistics
from secateur_service.pruning.structured.width import (
    CrossMoments,
    choose_channels,
    choose_heads,
    relative_errors,
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
        batches: the calibration text.
        check: called between two pieces of work; may raise to stop.
        units: those to keep, where that is known.
    """

    def __init__(
        self,
        plan: OutputPlan,
        model: StreamedModel,
        mix: Mapping[str, float],
        batches: Sequence[Batch],
        check: Callable[[], None],
        units: KeptUnits,
    ) -> None:
        self._units = units
        self._plan = plan
        self._model = model
        self._mix = dict(mix)
        self._batches = batches
        self._check = check
        self._tokens = dict.fromkeys(mix, 0)
        for batch in batches:
            self._tokens[batch.language] += batch.tokens.numel()

    def narrow(
        self,
        block: nn.Module,
        index: int,
        place: int,
        stored: Tensors,
        states: Sequence[Tensor],
        goal: Sequence[Tensor],
    ) -> tuple[Tensors, Narrowed]:
        """The narrow tensors of a block, and what they lose.

        Args:
            block: the dense block, in memory; as it was afterwards.
            index: its position in the dense model.
            place: its position in the output.
            stored: its tensors by dense name, as stored.
            states: hidden states of the calibration text before the block.
            goal: those of the dense model after the block; empty if they are not to be reached.

        Raises:
            FloatingPointError: weights or statistics that are not finite; the message names the layer.
        """
        cut: Tensors = {}
        records: dict[Axis, NarrowedRecord] = {}
        with contextlib.ExitStack() as changed:
            for axis, units in self._axes(index):
                weight_MN = stored[units.output.name].to(self._model.device)
                inputs = self._observe(block, place, units, states, goal if axis == "feed_forward" else ())
                try:
                    kept, solved_MK, errors = self._solve(axis, index, units, weight_MN, inputs)
                except FloatingPointError as error:
                    raise FloatingPointError(f"{units.output.name}: {error}") from error
                columns = torch.tensor(units.columns_of(kept), device=self._model.device)
                linear = block.get_submodule(units.linear)
                assert isinstance(linear, nn.Linear)
                changed.enter_context(_with_columns(linear, columns, solved_MK))
                cut[units.output.name] = solved_MK.cpu()
                cut |= {
                    name: stored[name].index_select(0, torch.tensor(units.rows_of(name, kept))) for name in units.inputs
                }
                if len(kept) < units.count:
                    records[axis] = NarrowedRecord(tuple(kept), units.count, errors)
        return cut, records

    def placeholders(self, index: int, stored: Tensors) -> Tensors:
        """Tensors of the right shapes, for a block whose values come from its shard."""
        cut = {}
        for axis, units in self._axes(index):
            for name, sizes in units.sizes(self._plan.narrowed.get(axis, units.count)):
                tensor = stored[name]
                for dimension, size in sizes.items():
                    tensor = tensor.narrow(dimension, 0, size)
                cut[name] = tensor.contiguous()
        return cut

    def _axes(self, index: int) -> Iterator[tuple[Axis, Units]]:
        for axis in self._plan.solved_axes:
            yield axis, units_of(self._plan.dense, index, axis)

    def _solve(
        self, axis: Axis, index: int, units: Units, weight_MN: Tensor, inputs: _Inputs
    ) -> tuple[list[int], Tensor, dict[str, float]]:
        """The units to keep, the projection on their columns, and what is lost by language."""
        grams = {name: inputs.statistics.language_gram(name) for name, share in self._mix.items() if share}
        gram_NN, count = inputs.statistics.gram, self._plan.narrowed.get(axis, units.count)
        assert gram_NN is not None
        self._check()
        if axis in self._units:
            kept = list(self._units[axis][index])
        elif axis == "attention":
            kept = choose_heads(weight_MN, gram_NN, count, units.columns).tolist()
        else:
            kept = choose_channels(weight_MN, gram_NN, count).tolist()
        self._check()
        columns = torch.tensor(units.columns_of(kept), device=weight_MN.device)
        drift_MN = inputs.drift.matrix if inputs.drift else None
        solved_MK = resolve(weight_MN, gram_NN, columns, drift_MN).to(weight_MN.dtype)
        # What goes with the units, apart from what the projection does about earlier blocks.
        alone_MK = solved_MK if drift_MN is None else resolve(weight_MN, gram_NN, columns)
        return kept, solved_MK, relative_errors(weight_MN, alone_MK, columns, grams)

    def _observe(
        self, block: nn.Module, place: int, units: Units, states: Sequence[Tensor], goal: Sequence[Tensor]
    ) -> _Inputs:
        """The inputs of the projection that reads the units."""
        linear = block.get_submodule(units.linear)
        assert isinstance(linear, nn.Linear)
        statistics = InputStatistics(
            linear.in_features, self._mix, self._tokens, self._model.device, moments=Moments.BY_LANGUAGE
        )
        drift = CrossMoments(self._mix, self._tokens) if goal else None
        for position, (batch, before) in enumerate(zip(self._batches, states, strict=True)):
            self._check()
            run = functools.partial(self._model.run_block, block, place, before)
            with stepwise_forwards([run], [(units.linear,)], {units.linear: linear}) as (forward,):
                inputs = forward.advance()
                statistics.update(inputs, batch.language)
                if drift is not None:
                    reached = forward.finish().to(self._model.device).float()
                    wanted = goal[position].to(self._model.device).float() - reached
                    drift.update(wanted, inputs, batch.language)
        if not statistics.is_finite():
            raise FloatingPointError(f"{units.linear} of block {place}: its inputs are not finite")
        return _Inputs(statistics, drift)


@contextlib.contextmanager
def _with_columns(linear: nn.Linear, columns: Tensor, solved_MK: Tensor) -> Iterator[None]:
    """The layer with only these columns, for the duration of the context, so that it computes what it will."""
    dense_MN = linear.weight.clone()
    try:
        linear.weight.zero_()
        linear.weight[:, columns] = solved_MK.to(linear.weight.dtype)
        yield
    finally:
        linear.weight.copy_(dense_MN)
