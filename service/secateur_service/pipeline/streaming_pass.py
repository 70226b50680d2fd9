"""The streaming pass: every block is read once, and is calibrated, pruned, evaluated and written while in memory.

Three sets of hidden states travel from block to block: those of the calibration text, and those of the evaluation
text through the dense and through the pruned blocks. After the last block, final norm and head turn the latter two
into dense and pruned perplexity per language. A finished block is read back and only propagates.

The next block is read ahead and the one before is written behind, while this one computes. A block counts as finished
when its bytes are on disk.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur_service.evaluation.perplexity import Losses, sum_losses
from secateur_service.models.safetensors import read_header
from secateur_service.models.streaming import StreamedModel
from secateur_service.models.tensors import TensorReader
from secateur_service.pipeline.batches import batch_sequences, divide
from secateur_service.pipeline.block_pruning import BlockPruner
from secateur_service.pipeline.heap import Heap
from secateur_service.pipeline.ledger import BlockLedger
from secateur_service.pipeline.meter import Meter
from secateur_service.pipeline.observer import JobObserver
from secateur_service.pipeline.read_ahead import BlockReader
from secateur_service.pipeline.stopwatch import Stopwatch
from secateur_service.pipeline.task import Task
from secateur_service.pipeline.write_behind import BlockWriter
from secateur_service.pruning.methods import Moments
from secateur_service.records.blocks import BlockRecord, LayerRecord
from secateur_service.telemetry import tracing

# Share of an accelerator's free memory that hidden states may take; the rest is for a block and its statistics.
MAX_STATES_SHARE = 0.5


@dataclass(frozen=True)
class PassResult:
    """What a pass produced: losses per evaluation language, and the record of every block."""

    dense: dict[str, Losses]
    pruned: dict[str, Losses]
    blocks: tuple[BlockRecord, ...]
    resumed_blocks: int


@torch.no_grad()
def run_pass(
    model: StreamedModel,
    task: Task,
    ledger: BlockLedger,
    observer: JobObserver,
    stopwatch: Stopwatch,
    meter: Meter | None = None,
) -> PassResult:
    """Run the pass from the first block that the ledger does not hold.

    Args:
        model: to be pruned.
        task: how.
        ledger: which blocks are finished.
        observer: hears of blocks and may stop the job.
        stopwatch: is charged.
        meter: ticks the work off and tells the observer of the progress; one of its own where the pass is all there is.

    Raises:
        FloatingPointError: weights, statistics or losses that are not finite; the message names the layer.
        CancelledError, PreemptedError, FencedError: the observer stopped the job; finished blocks are kept.
    """
    if meter is None:
        meter = meter_of(model.device, observer)
        meter.begin(model.num_blocks)
    return _Pass(model, task, ledger, observer, stopwatch, meter).run()


def meter_of(device: torch.device, observer: JobObserver) -> Meter:
    """A meter for work on a device: on a CPU the processor's time tells how hard a piece of work is."""
    return Meter(observer, effort=time.process_time if device.type == "cpu" else None)


class _Pass:
    def __init__(
        self,
        model: StreamedModel,
        task: Task,
        ledger: BlockLedger,
        observer: JobObserver,
        stopwatch: Stopwatch,
        meter: Meter,
    ) -> None:
        self.model = model
        self.task = task
        self.ledger = ledger
        self.observer = observer
        self.stopwatch = stopwatch
        self.meter = meter
        self.work = task.work(model.checkpoint)
        self.heap = Heap()
        model.check = observer.check
        length = next(iter(task.calibration.values())).tokens.shape[1]
        size = batch_sequences(length, model.device, small=model.small_batches)
        # A recipe that needs no data sends no calibration text through the model.
        texts = {} if task.moments is Moments.NONE else task.calibration
        self.calibration = divide({name: sample.tokens for name, sample in texts.items()}, size)
        self.evaluation = divide({name: sample.tokens for name, sample in task.evaluation.items()}, size)
        self.reader = BlockReader(model, stopwatch, observer.check)
        self.writer = BlockWriter(task.shards, task.fingerprint, ledger, observer, stopwatch)
        self.pruner = BlockPruner(model, task, self.calibration, self._check, meter.tick, self.work)

    def run(self) -> PassResult:
        self._place_states()
        with self.stopwatch.measure("load"):
            states = self.model.embed([batch.tokens for batch in (*self.calibration, *self.evaluation)])
        calibration, dense = states[: len(self.calibration)], states[len(self.calibration) :]
        pruned = list(dense)
        del states
        finished = self._finished_blocks()
        self._plan(finished, dense)
        with self.reader, self.writer:
            for index in range(self.model.num_blocks):
                self._check()
                with tracing.span("block", {tracing.BLOCK: index}):
                    self._run_block(index, finished.get(index), calibration, dense, pruned)
                self.meter.block_done()
        with self.stopwatch.measure("evaluate"):
            tokens = [batch.tokens for batch in self.evaluation]
            losses = self.model.token_losses([dense, pruned], tokens, lambda work: self.meter.tick("head", work))
        return PassResult(
            dense=self._by_language(losses[0]),
            pruned=self._by_language(losses[1]),
            blocks=(*finished.values(), *self.writer.records),
            resumed_blocks=len(finished),
        )

    def _place_states(self) -> None:
        """Let the hidden states wait on the host where they would take too much of an accelerator's memory."""
        if self.model.states_device.type != "cuda":
            return
        hidden = self.model.checkpoint.tensors[self.model.checkpoint.embedding_name].shape[1]
        copies = ((self.calibration, 1), (self.evaluation, 2))
        tokens = sum(count * batch.tokens.numel() for batches, count in copies for batch in batches)
        needed, free = tokens * hidden * self.model.dtype.itemsize, torch.cuda.mem_get_info(self.model.device)[0]
        if needed > MAX_STATES_SHARE * free:
            self.model.states_device = torch.device("cpu")
            self.observer.log("info", "hidden states wait on the host", bytes=needed, free_device_bytes=free)

    def _check(self) -> None:
        """Called between two pieces of work."""
        self.heap.trim()
        self.writer.settle()
        self.observer.check()

    def _plan(self, finished: Mapping[int, BlockRecord], states: Sequence[Tensor]) -> None:
        """Announce the work; what earlier attempts did counts as done."""
        self.meter.lap()
        for index, groups in enumerate(self.work.blocks):
            calibrating, solving = self.work.calibrating(index), sum(map(self.work.choosing, groups))
            if self.task.order == "block":
                calibrating += self.work.carrying(index)
            self.meter.plan("evaluate", self.work.evaluating(index))
            self.meter.plan("calibrate", calibrating)
            self.meter.plan("solve", solving)
            if index in finished:  # its text only passes
                self.meter.skip("calibrate", calibrating - self.work.carrying(index))
                self.meter.skip("solve", solving)
        self.meter.plan("head", self.work.head())
        if states:
            self.meter.gauge("head", *self.model.time_head(states[0], self.work.head(), self.meter.effort))
            self.meter.lap()

    def _run_block(
        self,
        index: int,
        finished: BlockRecord | None,
        calibration: list[Tensor],
        dense: list[Tensor],
        pruned: list[Tensor],
    ) -> None:
        """Carry all states through one block, in place, and prune it on the way unless it is finished."""
        began = time.monotonic()
        measure = self.stopwatch.measure
        with contextlib.ExitStack() as memory:
            with measure("load"):
                block = memory.enter_context(self.model.block(index, self.reader.take(index)))
            with measure("evaluate"):
                self._propagate(block, index, dense)
            layers: Sequence[LayerRecord] = ()
            with measure("prune"):
                if finished is None:
                    layers = self.pruner.prune(block, index, calibration)
                elif self.task.order == "dense":
                    self.pruner.carry(block, index, calibration)
            if finished is not None:
                with measure("load"):
                    self._restore(index, finished)
                if self.task.order != "dense":
                    with measure("prune"):
                        self.pruner.carry(block, index, calibration)
            with measure("evaluate"):
                self._propagate(block, index, pruned)
                snr_db = self._snr_db(dense, pruned)
            if finished is None:
                outputs = self.model.output_tensors(block, index)
                self.writer.submit(index, outputs, layers, snr_db, time.monotonic() - began)

    def _propagate(self, block: nn.Module, index: int, states: list[Tensor]) -> None:
        for position, batch in enumerate(states):
            self._check()
            states[position] = self.model.run_block(block, index, batch)
            share = self.evaluation[position].tokens.numel() / self.work.evaluation
            self.meter.tick("evaluate", share * self.work.evaluating(index) / 2)

    def _finished_blocks(self) -> dict[int, BlockRecord]:
        """The leading blocks that are in the ledger, were made as this pass makes them, and are still there."""
        finished: dict[int, BlockRecord] = {}
        for record in self.ledger.entries():
            is_next = record.index == len(finished) and record.fingerprint == self.task.fingerprint
            if not is_next or not self.task.shards.holds(record):
                break
            finished[record.index] = record
        if finished:
            self.observer.log("info", "resuming after finished blocks", finished_blocks=len(finished))
        return finished

    def _restore(self, index: int, record: BlockRecord) -> None:
        reader = TensorReader()
        header = read_header(self.task.shards.fetch(record))
        self.model.load_into(index, {name: reader.read(info) for name, info in header.items()})
        self.task.shards.move(record)

    def _snr_db(self, dense: list[Tensor], pruned: list[Tensor]) -> dict[str, float]:
        """10·log10(‖h‖² / ‖h − ĥ‖²) over the evaluation states of each language; left out where nothing differs."""
        signal: dict[str, float] = {}
        noise: dict[str, float] = {}
        for batch, clean, noisy in zip(self.evaluation, dense, pruned, strict=True):
            self._check()
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
        samples = self.task.evaluation
        return {
            name: sum_losses(values, samples[name].token_bytes, samples[name].is_text)
            for name, values in collected.items()
        }
