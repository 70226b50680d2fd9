"""Decides, before the streaming pass, how much of every layer to prune.

A uniform allocation needs no data. The others judge the blocks of the dense model in a separate pass: the calibration
text runs through every dense block once, while the mean squares of its layers' inputs are gathered.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur_service.calibration.sampling import TextSample
from secateur_service.durable import write_durably
from secateur_service.models.plan import OutputPlan
from secateur_service.models.streaming import StreamedModel
from secateur_service.pipeline.batches import Batch, batch_sequences, divide
from secateur_service.pipeline.meter import Meter
from secateur_service.pipeline.observer import JobObserver
from secateur_service.pipeline.stepwise import stepwise_forwards
from secateur_service.pipeline.stopwatch import Stopwatch
from secateur_service.pruning.allocation import SIGNALS, Layers, Shape, layer_sparsities
from secateur_service.pruning.methods import Moments
from secateur_service.pruning.patterns import NofM, Target, Unstructured
from secateur_service.pruning.statistics import InputStatistics
from secateur_service.sizing.operations import forward_operations
from secateur_service.spec import PruneSpec, PruningSpec


def allocate(
    model: StreamedModel,
    spec: PruneSpec,
    calibration: Mapping[str, TextSample],
    observer: JobObserver,
    stopwatch: Stopwatch,
    meter: Meter | None = None,
) -> dict[str, Target]:
    """How much of every layer to prune.

    Args:
        model: the dense model.
        spec: the specification.
        calibration: text by language; used by every policy except `uniform`.
        observer: may stop the job; logs how sparse the blocks will be.
        stopwatch: is charged for the pass.
        meter: counts the work of the pass.

    Returns:
        Targets by the name of the weight in the checkpoint; layers that stay dense are omitted.

    Raises:
        FloatingPointError: weights or inputs that are not finite; the message names them.
    """
    if spec.pruning is None:
        return {}
    pruning = spec.pruning.resolved()
    shares: Mapping[str, float] = {}
    if pruning.allocation.policy != "uniform":
        policy, span, outlier = pruning.allocation.policy, pruning.allocation.span, pruning.allocation.outlier
        assert pruning.sparsity is not None
        assert span is not None
        assert outlier is not None
        signals, blocks = judge_blocks(
            model, spec, calibration, observer, stopwatch, lambda layers: SIGNALS[policy](layers, outlier), meter
        )
        observer.log("info", "blocks judged", policy=policy, signals=signals)
        shares = layer_sparsities(signals, blocks, pruning.sparsity, span, pruning.effective_group)
    targets: dict[str, Target] = {}
    for info in model.checkpoint.linear_weights():
        target = _target(pruning, info.name, shares)
        if target is not None:
            targets[info.name] = target
    return targets


def settle_targets(
    workdir: Path,
    plan: OutputPlan,
    model: StreamedModel,
    spec: PruneSpec,
    calibration: Mapping[str, TextSample],
    observer: JobObserver,
    stopwatch: Stopwatch,
    meter: Meter | None = None,
) -> dict[str, Target]:
    """How much of each layer of the output to prune; kept in the work directory, because judging blocks takes a pass.

    Targets have the names that the weights have in the output. For the other arguments and the errors see `allocate`.
    """
    path = workdir / "targets.json"
    if path.exists():
        return targets_from_json(json.loads(path.read_bytes()))
    targets = allocate(model, spec, calibration, observer, stopwatch, meter)
    if spec.pruning and spec.pruning.overrides and len(plan.names) < len(plan.dense.tensors):
        message = "overrides name layers as in the dense model; those of removed blocks have no effect"
        observer.log("warning", message)
    renamed = ((plan.name_of(name), target) for name, target in targets.items())
    targets = {name: target for name, target in renamed if name is not None}
    write_durably(path, json.dumps(targets_to_json(targets)).encode())
    return targets


def targets_to_json(targets: Mapping[str, Target]) -> dict[str, Any]:
    """Targets as plain JSON types."""
    return {name: asdict(target) for name, target in targets.items()}


def targets_from_json(data: Mapping[str, Any]) -> dict[str, Target]:
    """The inverse of `targets_to_json`."""
    return {name: Unstructured(**entry) if "sparsity" in entry else NofM(**entry) for name, entry in data.items()}


def _target(pruning: PruningSpec, name: str, shares: Mapping[str, float]) -> Target | None:
    """The layer's override, else its allocated share, else the job's default; None keeps the layer dense."""
    override = pruning.override_of(name)
    if override is not None and override.dense:
        return None
    rule = override or pruning
    if rule.kept_of_group is not None:
        return NofM(*rule.kept_of_group)
    assert rule.sparsity is not None
    return Unstructured(shares.get(name, rule.sparsity), pruning.effective_group)


@torch.no_grad()
def judge_blocks(
    model: StreamedModel,
    spec: PruneSpec,
    calibration: Mapping[str, TextSample],
    observer: JobObserver,
    stopwatch: Stopwatch,
    signal: Callable[[Layers], float],
    meter: Meter | None = None,
) -> tuple[list[float], list[list[dict[str, Shape]]]]:
    """The signal of every block and, input by input, the layers that get their sparsity from it.

    These are the layers without an override; a block without any is omitted. For the other arguments and the errors see
    `allocate`.
    """
    pruning, weights = spec.pruning, spec.calibration.mix
    assert pruning is not None
    length = next(iter(calibration.values())).tokens.shape[1]
    size = batch_sequences(length, model.device, small=model.small_batches)
    batches = divide({language: sample.tokens for language, sample in calibration.items()}, size)
    model.check = observer.check
    passes = _passes(model, batches)
    if meter is not None:
        meter.detail(sum(passes))
        meter.plan("calibrate", sum(passes))
    with stopwatch.measure("load"):
        states = model.embed([batch.tokens for batch in batches])
    signals, blocks = [], []
    for index in range(model.num_blocks):
        with stopwatch.measure("prune"), model.block(index) as block:
            tokens = sum(batch.tokens.numel() for batch in batches)

            def tick(done: int, index: int = index, tokens: int = tokens) -> None:
                observer.check()
                if meter is not None:
                    meter.tick("calibrate", passes[index] * done / tokens)

            inputs = _observe(model, block, index, batches, states, weights, tick)
            linears = model.linears(block, index)
            layers: list[tuple[Tensor, InputStatistics]] = []
            shapes: list[dict[str, Shape]] = []
            for group, statistics in zip(model.checkpoint.inputs(index), inputs, strict=True):
                infos = {name: model.checkpoint.linear_weight(index, name) for name in group}
                if not statistics.is_finite():
                    raise FloatingPointError(f"{infos[group[0]].name}: inputs that are not finite")
                free = [name for name in group if pruning.override_of(infos[name].name) is None]
                layers += [(linears[name].weight, statistics) for name in free]
                if free:
                    shapes.append({infos[name].name: _shape(linears[name]) for name in free})
            if layers:
                blocks.append(shapes)
                signals.append(signal(layers))
    return signals, blocks


def _observe(
    model: StreamedModel,
    block: nn.Module,
    index: int,
    batches: Sequence[Batch],
    states: list[Tensor],
    weights: Mapping[str, float],
    tick: Callable[[int], None],
) -> list[InputStatistics]:
    """The mean squares of each distinct input of a dense block; advances the states in place."""
    groups, linears = model.checkpoint.inputs(index), model.linears(block, index)
    tokens = dict.fromkeys(weights, 0)
    for batch in batches:
        tokens[batch.language] += batch.tokens.numel()
    statistics = [
        InputStatistics(linears[group[0]].in_features, weights, tokens, model.device, moments=Moments.DIAGONAL)
        for group in groups
    ]
    for position, batch in enumerate(batches):
        run = functools.partial(model.run_block, block, index, states[position])
        with stepwise_forwards([run], groups, linears) as (forward,):
            for seen in statistics:
                seen.update(forward.advance(), batch.language)
            states[position] = forward.finish()
        tick(batch.tokens.numel())
    return statistics


def _passes(model: StreamedModel, batches: Sequence[Batch]) -> list[float]:
    """Floating-point operations of the pass through each block."""
    tokens, length = sum(batch.tokens.numel() for batch in batches), batches[0].tokens.shape[1]
    return [forward_operations(model.checkpoint, index, tokens, length) for index in range(model.num_blocks)]


def _shape(linear: nn.Linear) -> Shape:
    return linear.out_features, linear.in_features
