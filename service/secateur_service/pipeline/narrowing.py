"""Narrows the feed-forward layers of a block in memory: chooses channels and re-solves the projection that reads them.

The statistics are those of the calibration text on the output side, as it arrives at the dense block: earlier blocks
are narrow and pruned already.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from secateur_service.models.architectures import FeedForward
from secateur_service.models.checkpoint import Checkpoint
from secateur_service.models.plan import OutputPlan
from secateur_service.models.streaming import StreamedModel
from secateur_service.pipeline.batches import Batch
from secateur_service.pipeline.stepwise import stepwise_forwards
from secateur_service.pruning.methods import Moments
from secateur_service.pruning.statistics import InputStatistics
from secateur_service.pruning.structured.width import choose_channels, relative_errors, resolve
from secateur_service.records.blocks import NarrowedRecord

Tensors = dict[str, Tensor]


def narrowed_sizes(checkpoint: Checkpoint, channels: int) -> dict[str, dict[int, int]]:
    """`OutputPlan.narrowed` for feed-forward layers of so many channels in every block."""
    layout = checkpoint.architecture.feed_forward
    assert layout is not None
    sizes: dict[str, dict[int, int]] = {}
    for index in range(checkpoint.num_blocks):
        for name in layout.inputs:
            for info in _parameters(checkpoint, index, name):
                sizes[info] = {0: layout.fused * channels}
        sizes[checkpoint.linear_weight(index, layout.output).name] = {1: channels}
    return sizes


class Narrower:
    """Narrows blocks according to a plan.

    Args:
        plan: with the sizes.
        model: the output model, whose arguments the blocks are run with.
        mix: weight of each calibration language.
        batches: the calibration text.
        check: called between two pieces of work; may raise to stop.
    """

    def __init__(
        self,
        plan: OutputPlan,
        model: StreamedModel,
        mix: Mapping[str, float],
        batches: Sequence[Batch],
        check: Callable[[], None],
    ) -> None:
        self._plan = plan
        self._model = model
        self._mix = dict(mix)
        self._batches = batches
        self._check = check
        self._tokens = dict.fromkeys(mix, 0)
        for batch in batches:
            self._tokens[batch.language] += batch.tokens.numel()

    def narrow(
        self, block: nn.Module, index: int, place: int, stored: Tensors, states: Sequence[Tensor]
    ) -> tuple[Tensors, NarrowedRecord]:
        """The narrow tensors of a block, and what they lose.

        Args:
            block: the dense block, in memory.
            index: its position in the dense model.
            place: its position in the output.
            stored: its tensors by dense name, as stored.
            states: hidden states of the calibration text before the block.

        Raises:
            FloatingPointError: weights or statistics that are not finite; the message names the layer.
        """
        dense, layout = self._plan.dense, self._plan.dense.architecture.feed_forward
        assert layout is not None
        info = dense.linear_weight(index, layout.output)
        statistics = self._statistics(block, place, layout, states)
        weight_MN = stored[info.name].to(self._model.device)
        count = self._plan.narrowed[info.name][1]
        grams = {name: statistics.language_gram(name) for name, share in self._mix.items() if share}
        gram_NN = statistics.gram
        assert gram_NN is not None
        try:
            self._check()
            kept = choose_channels(weight_MN, gram_NN, count)
            self._check()
            solved_MK = resolve(weight_MN, gram_NN, kept).to(weight_MN.dtype)
        except FloatingPointError as error:
            raise FloatingPointError(f"{info.name}: {error}") from error
        errors = relative_errors(weight_MN, solved_MK, kept, grams)
        kept = kept.cpu()
        width = weight_MN.shape[1]
        rows = torch.cat([kept + part * width for part in range(layout.fused)])
        cut = {name: stored[name].index_select(0, rows) for name in self._written(index) if name != info.name}
        cut[info.name] = solved_MK.cpu()
        return cut, NarrowedRecord(tuple(kept.tolist()), width, errors)

    def placeholders(self, index: int, stored: Tensors) -> Tensors:
        """Tensors of the right shapes, for a block whose values come from its shard."""
        cut = {}
        for name in self._written(index):
            tensor = stored[name]
            for dimension, size in self._plan.narrowed[name].items():
                tensor = tensor.narrow(dimension, 0, size)
            cut[name] = tensor.contiguous()
        return cut

    def _written(self, index: int) -> list[str]:
        return [info.name for info in self._plan.dense.block_tensors(index) if info.name in self._plan.narrowed]

    def _statistics(
        self, block: nn.Module, place: int, layout: FeedForward, states: Sequence[Tensor]
    ) -> InputStatistics:
        """Second moments of the channels, by language."""
        linear = block.get_submodule(layout.output)
        assert isinstance(linear, nn.Linear)
        statistics = InputStatistics(
            linear.in_features, self._mix, self._tokens, self._model.device, moments=Moments.BY_LANGUAGE
        )
        for batch, before in zip(self._batches, states, strict=True):
            self._check()
            run = functools.partial(self._model.run_block, block, place, before)
            with stepwise_forwards([run], [(layout.output,)], {layout.output: linear}) as (forward,):
                statistics.update(forward.advance(), batch.language)
        if not statistics.is_finite():
            raise FloatingPointError(f"{layout.output} of block {place}: its inputs are not finite")
        return statistics


def _parameters(checkpoint: Checkpoint, index: int, linear: str) -> list[str]:
    """The names of a linear layer's weight and, if there is one, bias."""
    weight = checkpoint.linear_weight(index, linear).name
    bias = weight.removesuffix("weight") + "bias"
    return [weight, *([bias] if bias in checkpoint.tensors else [])]
