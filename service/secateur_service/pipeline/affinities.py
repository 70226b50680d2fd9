"""Measures how well the calibration mix covers the evaluation languages, before anything is pruned.

Some text of every language runs through the first block of the dense model. benchmarks/affinity.py shows that its
inputs tell as much about what a language will lose as those of all blocks. They cost next to nothing, and are known in
the first minute of a job. Every attempt measures again, and finds the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur_service.evaluation.language_parts import AffinityPart
from secateur_service.evaluation.verdicts import not_covered
from secateur_service.models.streaming import StreamedModel
from secateur_service.models.units import gate_of
from secateur_service.pipeline.batches import Batch, batch_sequences, divide
from secateur_service.pipeline.job_text import JobText
from secateur_service.pipeline.meter import Meter
from secateur_service.pipeline.observer import JobObserver
from secateur_service.pipeline.pass_config import Samples
from secateur_service.pruning.affinity import PARTS, Affinities, affinities
from secateur_service.pruning.methods import Moments
from secateur_service.sizing.operations import forward_operations
from secateur_service.spec import PruneSpec

MAX_TOKENS = 8192
"""Of each language, that are looked at."""


def foresee(
    spec: PruneSpec, model: StreamedModel, text: JobText, observer: JobObserver, meter: Meter
) -> AffinityPart | None:
    """Measure the affinities of a job, and log what is known of its report before any work on blocks.

    Args:
        spec: the resolved specification.
        model: the dense model.
        text: of the job.
        observer: receives a warning for each language that the mix does not cover, and may stop the job.
        meter: learns from it what a pass takes.

    Returns:
        None where no calibration text is used in the blocks, or where nothing can be measured.
    """
    gates = (gate_of(model.checkpoint, index) for index in range(model.num_blocks))
    if spec.evaluation.language_neurons and not any(gates):
        problem = f"{model.checkpoint.model_type} has no gated feed-forward layers outside of experts"
        observer.log("warning", f"language neurons are left out of the report: {problem}")
    uses_text = spec.recipe.moments is not Moments.NONE or spec.reconstruction is not None
    if not uses_text and not (spec.shrink and spec.shrink.changes_blocks):
        return None
    mix = {name: weight for name, weight in spec.calibration.mix.items() if weight}
    length = next(iter(text.calibration.values())).tokens.shape[1]
    each = forward_operations(model.checkpoint, 0, 1, length)

    def tick(tokens: int) -> None:
        meter.learn("evaluate", tokens * each)

    meter.lap()
    measured = measure_affinities(model, text.calibration, text.evaluation, mix, observer.check, tick)
    if measured is None:
        return None
    found = AffinityPart.model_validate(measured)
    for verdict in not_covered(found, mix):
        observer.log("warning", verdict.message, verdict=verdict.kind, language=verdict.language)
    return found


def measure_affinities(
    model: StreamedModel,
    calibration: Samples,
    evaluation: Samples,
    mix: Mapping[str, float],
    check: Callable[[], None],
    tick: Callable[[int], None] = lambda _: None,
) -> Affinities | None:
    """The affinities of the evaluation languages with the mix; None where there is nothing to measure, or no number.

    Args:
        model: the dense model.
        calibration: calibration text by language, in its tokens.
        evaluation: evaluation text by language.
        mix: weight of each calibration language, none of them zero.
        check: called between two pieces of work; may raise to stop.
        tick: called with the tokens of every piece.
    """
    known = {("calibration", name): calibration[name].tokens for name in mix}
    known |= {("evaluation", name): sample.tokens for name, sample in evaluation.items()}
    # As much text of each, so that parts vary alike.
    tokens = min(MAX_TOKENS, *(text.numel() for text in known.values())) // PARTS * PARTS
    length = next(iter(known.values())).shape[1]
    if not tokens:
        return None
    found: dict[str, dict[str, list[Tensor]]] = {"calibration": {}, "evaluation": {}}
    for (purpose, name), text in known.items():
        some = text[: -(-tokens // length)]
        batches = divide({name: some}, batch_sequences(length, model.device, small=model.small_batches))
        found[purpose][name] = mean_squares(model, batches, tokens, check, tick=tick)[0]
    inputs = [squares for texts in found.values() for each in texts.values() for squares in each]
    if not inputs or not all(bool(torch.isfinite(squares).all()) for squares in inputs):
        return None  # numbers that are not finite end the job in the pass, which says in which layer
    return affinities(found["calibration"], found["evaluation"], mix, tokens)


@torch.no_grad()
def mean_squares(
    model: StreamedModel,
    batches: list[Batch],
    tokens: int,
    check: Callable[[], None],
    *,
    blocks: int = 1,
    tick: Callable[[int], None] = lambda _: None,
) -> list[list[Tensor]]:
    """The mean squares of the first tokens of a text at the inputs of blocks.

    Inputs of experts are left out: each sees other tokens.

    Args:
        model: the dense model.
        batches: the text.
        tokens: how many; a multiple of `PARTS`.
        check: called between two pieces of work; may raise to stop.
        blocks: how many blocks the text runs through.
        tick: called with the tokens of every batch that ran through a block.

    Returns:
        For every block, and each distinct input of its pruned layers, P×n in float64 on the host.
    """
    states = model.embed([batch.tokens for batch in batches])
    found = []
    for index in range(blocks):
        shared = [group[0] for group in model.checkpoint.inputs(index) if model.checkpoint.expert_of(group[0]) is None]
        inputs = {name: _Input(tokens) for name in shared}
        with model.block(index) as block, contextlib.ExitStack() as hooks:
            for name, each in inputs.items():
                hooks.callback(block.get_submodule(name).register_forward_pre_hook(each.see).remove)
            for position, batch in enumerate(batches):
                check()
                states[position] = model.run_block(block, index, states[position])
                tick(batch.tokens.numel())
        found.append([each.mean_squares() for each in inputs.values()])
    return found


class _Input:
    """Sums the squares of the first tokens of an input, by part."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._seen = 0
        self._sums: dict[int, Tensor] = {}

    def see(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        """Add the next batch."""
        x_TN = args[0].reshape(-1, args[0].shape[-1])[: self._tokens - self._seen].float()
        parts = (self._seen + torch.arange(len(x_TN))) * PARTS // self._tokens
        self._seen += len(x_TN)
        for part, count in enumerate(parts.bincount(minlength=PARTS).tolist()):
            if count:
                sums_N = x_TN[:count].square().sum(0).double()
                self._sums[part] = self._sums[part] + sums_N if part in self._sums else sums_N
                x_TN = x_TN[count:]

    def mean_squares(self) -> Tensor:
        """P×n in float64, on the host."""
        return torch.stack([self._sums[part] for part in range(PARTS)]).cpu() * (PARTS / self._tokens)
