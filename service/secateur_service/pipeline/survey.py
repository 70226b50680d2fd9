"""What the projections of a dense model lose with some of their inputs, in one pass over some text."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from secateur_service.calibration.sampling import TextSample
from secateur_service.models.streaming import StreamedModel
from secateur_service.models.units import Units, adds_to_states, possible_heads, units_of
from secateur_service.pipeline.batches import CalibrationText, batch_sequences, divide, own_share
from secateur_service.pipeline.meter import Meter
from secateur_service.pipeline.stepwise import stepwise_forwards
from secateur_service.pruning.methods import Moments
from secateur_service.pruning.ranks import ALONE, Ranks
from secateur_service.pruning.statistics import InputStatistics
from secateur_service.pruning.structured.width import drop_channels, drop_heads, losses, resolve
from secateur_service.records.blocks import Axis
from secateur_service.sizing.budget_search import grid_of
from secateur_service.sizing.operations import forward_operations

Lost = list[dict[int, dict[str, float]]]
"""For every block: by the number of units that stay, what is lost by language."""


class Survey:
    """A pass over a model.

    Args:
        model: the dense model.
        mix: weight of each calibration language.
        text: calibration text by language.
        languages: those for which it is found out what is lost.
        meter: counts the work, and stops the job if it is asked to.
        ranks: who has the text; all get the result.
    """

    def __init__(
        self,
        model: StreamedModel,
        mix: Mapping[str, float],
        text: Mapping[str, TextSample],
        languages: Sequence[str],
        meter: Meter,
        ranks: Ranks = ALONE,
    ) -> None:
        self._model = model
        self._mix = {name: weight for name, weight in mix.items() if weight}
        self._languages = languages
        self._meter = meter
        tokens = {name: text[name].tokens for name in self._mix}
        length = next(iter(tokens.values())).shape[1]
        batches = divide(tokens, batch_sequences(length, model.device, small=model.small_batches))
        self._text = CalibrationText.of(batches, self._mix, ranks)
        self._batches, self._tokens, self._ranks = self._text.batches, self._text.tokens, ranks
        checkpoint = model.checkpoint
        self._each = [forward_operations(checkpoint, index, 1, length) for index in range(checkpoint.num_blocks)]

    @torch.no_grad()
    def run(self, axes: Sequence[Axis]) -> dict[Axis, Lost]:
        """What the projections of each block lose of the hidden states, by the number of heads or channels that stay.

        Returns:
            By axis and block: by the number of units, ‖X(W − Ŵ)ᵀ‖² / ‖h‖² of each language, where h are the hidden
            states after the block. Where what the layer writes is normalised, ‖X(W − Ŵ)ᵀ‖² / ‖XWᵀ‖² instead.

        Raises:
            FloatingPointError: weights or inputs that are not finite; the message names the layer.
        """
        lost: dict[Axis, Lost] = {axis: [] for axis in axes}
        if not axes:
            return lost
        self._meter.plan("calibrate", sum(self._tokens.values()) * sum(self._each))
        states = self._model.embed([batch.tokens for batch in self._batches], needed=self._text.needed)
        for index in range(self._model.num_blocks):
            units = {axis: units_of(self._model.checkpoint, index, axis)[0] for axis in axes}
            with self._model.block(index) as block:
                statistics, power = self._observe(block, index, units, states)
            for axis, found in statistics.items():
                self._meter.check()
                try:
                    lost[axis].append(self._curve(axis, index, units[axis], found, power))
                except FloatingPointError as error:
                    raise FloatingPointError(f"{units[axis].output.name}: {error}") from error
        return lost

    def _observe(
        self, block: nn.Module, index: int, units: Mapping[Axis, Units], states: list[Tensor]
    ) -> tuple[dict[Axis, InputStatistics], dict[str, float]]:
        """Run all text through a block, in place: the inputs of its projections, and Σ‖h‖²/T after it by language."""
        linears: dict[str, nn.Linear] = {}
        statistics: dict[Axis, InputStatistics] = {}
        for axis, found in units.items():
            linear = block.get_submodule(found.linear)
            assert isinstance(linear, nn.Linear)
            linears[found.linear] = linear
            statistics[axis] = InputStatistics(
                linear.in_features, self._mix, self._tokens, self._model.device, moments=Moments.BY_LANGUAGE
            )
        powers: list[float] = []
        stops = [(name,) for name in linears]
        for position, batch in enumerate(self._batches):
            run = functools.partial(self._model.run_block, block, index, states[position])
            with stepwise_forwards([run], stops, linears) as (forward,):
                for one in statistics.values():
                    one.update(forward.advance(), batch.language, batch.shard)
                states[position] = forward.finish()
            powers.append(float(states[position].float().square().sum()))
            self._meter.tick("calibrate", self._text.pace * batch.tokens.numel() * self._each[index])
        for one in statistics.values():
            one.settle(self._ranks)
        power = dict.fromkeys(self._mix, 0.0)
        for batch, found_power in zip(self._text.all_batches, self._ranks.collect(powers), strict=True):
            power[batch.language] += found_power / self._tokens[batch.language]
        return statistics, power

    def _curve(
        self, axis: Axis, index: int, units: Units, statistics: InputStatistics, power: Mapping[str, float]
    ) -> dict[int, dict[str, float]]:
        """What a projection loses by the number of its units that stay."""
        model = self._model
        weight_MN = model.weight(index, units.linear).to(model.device)
        gram_NN = statistics.gram
        assert gram_NN is not None
        grams = {name: statistics.language_gram(name) for name in self._languages}
        grid = grid_of(units.count)
        if axis == "attention":
            grid = [units.count, *(count for count in reversed(possible_heads(model.checkpoint)) if count >= grid[-1])]
            drop = functools.partial(drop_heads, weight_MN, gram_NN, grid[-1], units.columns)
        else:
            drop = functools.partial(drop_channels, weight_MN, gram_NN, grid[-1])
        order = self._ranks.share(drop)
        adds = adds_to_states(model.checkpoint)
        curves: list[dict[str, float]] = []
        for count in own_share(grid[1:], self._ranks):
            self._meter.check()
            kept = sorted(set(range(units.count)) - set(order[: units.count - count]))
            columns = torch.tensor(units.columns_of(kept), device=model.device)
            found = losses(weight_MN, resolve(weight_MN, gram_NN, columns), columns, grams)
            curves.append({name: loss.lost / power[name] if adds else loss.share for name, loss in found.items()})
        nothing = dict.fromkeys(self._languages, 0.0)
        return dict(zip(grid, [nothing, *self._ranks.collect(curves)], strict=True))
