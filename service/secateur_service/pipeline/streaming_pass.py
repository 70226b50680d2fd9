"""The streaming pass: every block is read once, and is calibrated, pruned, evaluated and written while in memory.

Three sets of hidden states travel from block to block: those of the calibration text through the pruned blocks, and
those of the evaluation text through the dense and through the pruned blocks. After the last block, final norm and
head turn the latter two into dense and pruned perplexity per language.

Order `block`: the statistics of all layers of a block come from its dense weights (on states that pruned blocks
produced), then the pruned block carries the states on. A finished block is read back and only propagates.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from secateur_service.calibration.sampling import TextSample
from secateur_service.evaluation.perplexity import Losses, sum_losses
from secateur_service.models.safetensors import read_header, write_shard
from secateur_service.models.streaming import StreamedModel
from secateur_service.models.tensors import DTYPES, TensorReader
from secateur_service.pipeline.batches import batch_sequences, divide
from secateur_service.pipeline.collect import StatisticsCollector
from secateur_service.pipeline.ledger import BlockLedger
from secateur_service.pipeline.observer import BlockRecord, JobObserver, LayerRecord, Progress
from secateur_service.pipeline.stopwatch import Stopwatch
from secateur_service.pruning.methods import Moments, needed_moments
from secateur_service.pruning.patterns import Target
from secateur_service.pruning.solver import PrunedLayer, solve

# The share of a job's progress that the blocks stand for; the rest is sampling, packaging and publishing.
BLOCKS_FRACTION = 0.9


@dataclass(frozen=True)
class Task:
    """What a pass is to do.

    Attributes:
        method: names the score that chooses what goes.
        update: what happens to the weights that stay.
        target: how much goes.
        weights: mixing weight of each calibration language.
        calibration: calibration text by language.
        evaluation: evaluation text by language.
        shards: folder for the pruned blocks.
    """

    method: str
    update: str
    target: Target
    weights: Mapping[str, float]
    calibration: Mapping[str, TextSample]
    evaluation: Mapping[str, TextSample]
    shards: Path


@dataclass(frozen=True)
class PassResult:
    """What a pass produced: losses per evaluation language, and the record of every block."""

    dense: dict[str, Losses]
    pruned: dict[str, Losses]
    blocks: tuple[BlockRecord, ...]
    resumed_blocks: int


@torch.no_grad()
def run_pass(
    model: StreamedModel, task: Task, ledger: BlockLedger, observer: JobObserver, stopwatch: Stopwatch
) -> PassResult:
    """Run the pass from the first block that the ledger does not hold.

    Raises:
        FloatingPointError: weights, statistics or losses that are not finite; the message names the layer.
        CancelledError, PreemptedError, FencedError: the observer stopped the job; finished blocks are kept.
    """
    return _Pass(model, task, ledger, observer, stopwatch).run()


class _Pass:
    def __init__(
        self, model: StreamedModel, task: Task, ledger: BlockLedger, observer: JobObserver, stopwatch: Stopwatch
    ) -> None:
        self.model = model
        self.task = task
        self.ledger = ledger
        self.observer = observer
        self.stopwatch = stopwatch
        self.needs = needed_moments(task.method, task.update)
        length = next(iter(task.evaluation.values())).tokens.shape[1]
        size = batch_sequences(length, model.device)
        # A method that needs no data sends no calibration text through the model.
        texts = {} if self.needs is Moments.NONE else task.calibration
        self.calibration = divide({name: sample.tokens for name, sample in texts.items()}, size)
        self.evaluation = divide({name: sample.tokens for name, sample in task.evaluation.items()}, size)

    def run(self) -> PassResult:
        with self.stopwatch.measure("load"):
            states = self.model.embed([batch.tokens for batch in (*self.calibration, *self.evaluation)])
        calibration, dense = states[: len(self.calibration)], states[len(self.calibration) :]
        pruned = list(dense)
        finished = self._finished_blocks()
        records = []
        started = time.monotonic()
        for index in range(self.model.num_blocks):
            self.observer.check()
            record = self._run_block(index, finished.get(index), calibration, dense, pruned)
            records.append(record)
            if index not in finished:
                self.ledger.record(record)
                self.observer.block(record)
            self._report_progress(index + 1, time.monotonic() - started)
        with self.stopwatch.measure("evaluate"):
            losses = self.model.token_losses([dense, pruned], [batch.tokens for batch in self.evaluation])
        return PassResult(
            dense=self._by_language(losses[0]),
            pruned=self._by_language(losses[1]),
            blocks=tuple(records),
            resumed_blocks=len(finished),
        )

    def _run_block(
        self,
        index: int,
        finished: BlockRecord | None,
        calibration: list[Tensor],
        dense: list[Tensor],
        pruned: list[Tensor],
    ) -> BlockRecord:
        """Carry all states through one block, in place, and prune it on the way unless it is finished."""
        began = time.monotonic()
        measure = self.stopwatch.measure
        with contextlib.ExitStack() as memory:
            with measure("load"):
                block = memory.enter_context(self.model.block(index))
            with measure("evaluate"):
                self._propagate(block, index, dense)
            if finished is None:
                with measure("prune"):
                    layers = self._prune(block, index, calibration)
            else:
                with measure("load"):
                    self._restore(index, finished)
            if index + 1 < self.model.num_blocks:
                with measure("prune"):
                    self._propagate(block, index, calibration)
            with measure("evaluate"):
                self._propagate(block, index, pruned)
                snr_db = self._snr_db(dense, pruned)
            if finished is not None:
                return finished
            with measure("write"):
                outputs = self.model.output_tensors(block, index)
                shard = write_shard(self.task.shards, f"block-{index:05d}", outputs)
        return BlockRecord(
            index=index,
            shard=shard.name,
            sha256=shard.sha256,
            size_bytes=shard.size_bytes,
            tensors=tuple(output.name for output in outputs),
            layers=tuple(layers),
            snr_db=snr_db,
            seconds=time.monotonic() - began,
        )

    def _propagate(self, block: nn.Module, index: int, states: list[Tensor]) -> None:
        for position, batch in enumerate(states):
            self.observer.check()
            states[position] = self.model.run_block(block, index, batch)

    def _prune(self, block: nn.Module, index: int, calibration: list[Tensor]) -> list[LayerRecord]:
        """Prune a block in memory; its weights end as they will be written, rounded to the checkpoint's type."""
        architecture = self.model.checkpoint.architecture
        linears = self.model.linears(block)
        collector = None
        if self.needs is not Moments.NONE:
            collector = StatisticsCollector(
                architecture.inputs,
                linears,
                self.task.weights,
                {language: sample.num_tokens for language, sample in self.task.calibration.items()},
                with_gram=self.needs is Moments.FULL,
            )
            with collector.attached():
                for batch, states in zip(self.calibration, calibration, strict=True):
                    self.observer.check()
                    collector.run(lambda states=states: self.model.run_block(block, index, states), batch.language)  # type: ignore[misc]
        records = []
        for position, group in enumerate(architecture.inputs):
            self.observer.check()
            try:
                solved = solve(
                    self.task.method,
                    self.task.update,
                    [linears[name].weight.float() for name in group],
                    collector.statistics[position] if collector else None,
                    self.task.target,
                )
            except FloatingPointError as error:
                name = self.model.checkpoint.linear_weight(index, group[0]).name
                raise FloatingPointError(f"{name}: {error}") from error
            for name, layer in zip(group, solved, strict=True):
                records.append(self._apply(linears[name], index, name, layer))
        return records

    def _apply(self, linear: nn.Linear, index: int, name: str, layer: PrunedLayer) -> LayerRecord:
        info = self.model.checkpoint.linear_weight(index, name)
        rounded = layer.weight.to(DTYPES[info.dtype])
        if not bool(torch.isfinite(rounded).all()):
            raise FloatingPointError(f"{info.name}: the update produced weights that are not finite")
        linear.weight.copy_(rounded)
        zeros, target = int((rounded == 0).sum()), int(layer.pruned.sum())
        extra = (f"{zeros - target} weights were zero without being pruned",) if zeros > target else ()
        return LayerRecord(info.name, (rounded.shape[0], rounded.shape[1]), zeros, (*layer.notes, *extra))

    def _finished_blocks(self) -> dict[int, BlockRecord]:
        """The leading blocks that are in the ledger and whose shards are there, unchanged in size."""
        finished: dict[int, BlockRecord] = {}
        for record in self.ledger.entries():
            path = self.task.shards / record.shard
            if record.index != len(finished) or not path.is_file() or path.stat().st_size != record.size_bytes:
                break
            finished[record.index] = record
        if finished:
            self.observer.log("info", "resuming after finished blocks", finished_blocks=len(finished))
        return finished

    def _restore(self, index: int, record: BlockRecord) -> None:
        reader = TensorReader()
        header = read_header(self.task.shards / record.shard)
        self.model.load_into(index, {name: reader.read(info) for name, info in header.items()})

    def _snr_db(self, dense: list[Tensor], pruned: list[Tensor]) -> dict[str, float]:
        """10·log10(‖h‖² / ‖h − ĥ‖²) over the evaluation states of each language; left out where nothing differs."""
        signal: dict[str, float] = {}
        noise: dict[str, float] = {}
        for batch, clean, noisy in zip(self.evaluation, dense, pruned, strict=True):
            signal[batch.language] = signal.get(batch.language, 0.0) + float(clean.float().square().sum())
            noise[batch.language] = noise.get(batch.language, 0.0) + float((clean - noisy).float().square().sum())
        for language, power in noise.items():
            if not math.isfinite(power):
                raise FloatingPointError(f"hidden states of language {language} that are not finite")
        return {name: 10 * math.log10(signal[name] / noise[name]) for name in signal if noise[name] > 0}

    def _by_language(self, losses: list[Tensor]) -> dict[str, Losses]:
        collected: dict[str, list[Tensor]] = {name: [] for name in self.task.evaluation}
        for batch, values in zip(self.evaluation, losses, strict=True):
            collected[batch.language].append(values)
        return {name: sum_losses(values, self.task.evaluation[name].token_bytes) for name, values in collected.items()}

    def _report_progress(self, done: int, elapsed: float) -> None:
        total = self.model.num_blocks
        remaining = elapsed / done * (total - done) / BLOCKS_FRACTION
        self.observer.progress(Progress(done, total, BLOCKS_FRACTION * done / total, remaining))
