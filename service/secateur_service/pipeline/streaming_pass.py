"""The streaming pass: every block is read once, and is calibrated, pruned, evaluated and written while in memory.

Three sets of hidden states are propagated from block to block: those of the calibration text, and those of the
evaluation text through the dense and through the pruned blocks. After the last block, final norm and head turn the
latter two into dense and pruned perplexity per language. A block that is already finished is read back and only
propagates. The requests of tasks, if there are any, travel with the evaluation text on both ways (`questions`).

The output need not have the shape of the dense model (`models.plan`): the evaluation has two sides, each with its own
model, tokens and states. A block that is not in the output is only run on the dense side.

While one block computes, the next is read ahead and the previous one is written behind. A block counts as finished when
its bytes are on disk.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from secateur_service.models.safetensors import read_header
from secateur_service.models.streaming import StreamedModel
from secateur_service.models.tensors import TensorReader
from secateur_service.pipeline.batches import CalibrationText, batch_sequences, divide, scored_sequences
from secateur_service.pipeline.block_pruning import BlockPruner, DenseStream
from secateur_service.pipeline.heap_trimming import HeapTrimmer
from secateur_service.pipeline.ledger import BlockLedger
from secateur_service.pipeline.meter import Meter
from secateur_service.pipeline.narrowing import Narrowed, Narrower
from secateur_service.pipeline.neuron_watch import Watch, survey_neurons
from secateur_service.pipeline.observer import JobObserver
from secateur_service.pipeline.pass_config import PassConfig, Samples
from secateur_service.pipeline.pass_work import PassWork
from secateur_service.pipeline.predictions import Predictions, predict_apart, predict_together
from secateur_service.pipeline.read_ahead import BlockReader
from secateur_service.pipeline.reconstruction import Reconstructor
from secateur_service.pipeline.side import Side, snr_db
from secateur_service.pipeline.stopwatch import Stopwatch
from secateur_service.pipeline.write_behind import BlockWriter
from secateur_service.pruning.elementwise import nonzeros
from secateur_service.pruning.language_neurons import NeuronSurvey
from secateur_service.pruning.mask_sample import sample_mask
from secateur_service.pruning.methods import Moments
from secateur_service.pruning.ranks import ALONE, Ranks
from secateur_service.records.blocks import BlockRecord, LayerRecord
from secateur_service.sizing.budget import written_at_once
from secateur_service.telemetry import tracing

# Share of an accelerator's free memory that hidden states may take; the rest is for a block and its statistics.
MAX_STATES_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class PassResult(Predictions):
    """What a pass produced, and what both models predict after it.

    Attributes:
        blocks: the record of every block.
        resumed_blocks: how many of these an earlier attempt finished.
        neurons: what became of the neurons that belong to a language; None if not asked for, or if there are none.
    """

    blocks: tuple[BlockRecord, ...]
    resumed_blocks: int
    neurons: NeuronSurvey | None = None


@torch.no_grad()
def run_pass(
    model: StreamedModel,
    config: PassConfig,
    ledger: BlockLedger,
    observer: JobObserver,
    stopwatch: Stopwatch,
    meter: Meter | None = None,
    ranks: Ranks = ALONE,
) -> PassResult:
    """Run the pass from the first block that is not in the ledger.

    Args:
        model: the model to prune.
        config: how to prune it.
        ledger: which blocks are finished.
        observer: is notified of blocks and may stop the job.
        stopwatch: is charged for the work.
        meter: counts the work and reports the progress to the observer; by default the pass creates its own.
        ranks: the processes that run it; each calls this with the same model and config, but for what is only the
            first one's (`pipeline.team`).

    Raises:
        FloatingPointError: weights, statistics or losses that are not finite; the message names the layer.
        CancelledError, PreemptedError, FencedError: the observer stopped the job; finished blocks are kept.
    """
    if meter is None:
        meter = meter_of(model.device, observer)
    return _Pass(model, config, ledger, observer, stopwatch, meter, ranks).run()


def meter_of(device: torch.device, observer: JobObserver, rate: float | None = None) -> Meter:
    """A meter for work on a device: on a CPU, effort is measured in processor time."""
    return Meter(observer, effort=time.process_time if device.type == "cpu" else None, rate=rate)


@dataclass
class _Calibration:
    """Hidden states of every batch of the calibration text, between two blocks.

    Attributes:
        states: on the way through the pruned blocks; in order `dense` the dense ones.
        goal: on the way through the dense blocks, where the output's are to follow them; else empty.
    """

    states: list[Tensor]
    goal: list[Tensor]


class _Pass:
    def __init__(
        self,
        model: StreamedModel,
        config: PassConfig,
        ledger: BlockLedger,
        observer: JobObserver,
        stopwatch: Stopwatch,
        meter: Meter,
        ranks: Ranks,
    ) -> None:
        self.ranks = ranks
        self.model = model
        self.config = config
        self.ledger = ledger
        self.observer = observer
        self.stopwatch = stopwatch
        self.meter = meter
        self.output = output = config.output
        self.heap = HeapTrimmer()
        model.check = observer.check
        length = next(iter(config.calibration.values())).tokens.shape[1]
        self.batch_sequences = batch_sequences(length, model.device, small=model.small_batches)
        text = config.calibration if output is None or config.order == "dense" else output.calibration
        sequences = scored_sequences(length, model.device, small=model.small_batches)
        self.dense = Side.of(model, config, text, config.evaluation, config.requests, sequences, ranks)
        if output is None:
            self.pruned = replace(self.dense)
        else:
            self.pruned = Side.of(output.model, config, text, output.evaluation, output.requests, sequences, ranks)
        if config.language_neurons:
            self.dense.watch, self.pruned.watch = (
                Watch(side.model.checkpoint, side.all_batches, weighs=side is self.pruned, ranks=ranks)
                for side in (self.dense, self.pruned)
            )
        self.work = self.pruned.work
        self.steps = PassWork(config, self.dense.work, self.work)
        # A recipe that needs no data sends no calibration text through the model.
        narrows = output is not None and bool(output.plan.solved_axes)
        needs_text = config.moments is not Moments.NONE or narrows or config.reconstruction is not None
        self.samples: Samples = text if needs_text else {}
        samples = {name: sample.tokens for name, sample in self.samples.items()}
        shared = CalibrationText.of(divide(samples, self.batch_sequences), config.mix, ranks)
        self.text, self.calibration = shared, shared.batches
        self.reader = BlockReader(model, stopwatch, observer.check, in_turn=ranks.count > 1)
        at_once = written_at_once(on_device=model.device.type != "cpu")
        self.writer = BlockWriter(config.shards, config.fingerprint, ledger, observer, stopwatch, at_once, ranks)
        self.pruner = BlockPruner(
            self.pruned.model,
            config,
            shared,
            self._check,
            meter.tick,
            self.work,
            # In order `dense` the states are the dense model's, which a block that lost parts does not compute.
            carries=output is None if config.order == "dense" else config.reconstruction is None,
        )
        self.narrower = None
        if output is not None and narrows:
            self.narrower = Narrower(output.plan, output.model, config.mix, shared, self._check, output.units)
        self.reconstructor = None
        if config.reconstruction is not None:
            self.reconstructor = Reconstructor(
                config.reconstruction,
                self.pruned.model,
                config.mix,
                shared,
                self._tick_training,
                minimax=config.minimax,
            )

    def run(self) -> PassResult:
        self._place_states()
        with self.stopwatch.measure("load"):
            calibration = self._embed()
            if self.config.shared is not None:
                self.dense.share(self.config.shared)
        finished = self.ranks.share(self._finished_blocks)
        self._plan(finished)
        with self.reader, self.writer:
            for index in range(self.model.num_blocks):
                self._check()
                with tracing.span("block", {tracing.BLOCK: index}):
                    self._run_block(index, finished, calibration)
                if self.steps.place(index) not in (None, *finished):
                    self.meter.block_done()
        with self.stopwatch.measure("evaluate"):
            predict = predict_together if self._keeps_tokens else predict_apart
            predictions = predict(self.dense, self.pruned, self._tick_head, self._check, self.ranks)
        blocks = (*finished.values(), *self.writer.records)
        return PassResult(
            **vars(predictions), blocks=blocks, resumed_blocks=len(finished), neurons=self._neurons(blocks)
        )

    def _embed(self) -> _Calibration:
        """Hidden states before the first block."""
        dense, pruned = self.dense, self.pruned
        tokens = [batch.tokens for batch in self.calibration]
        if self.reconstructor is not None:  # the model has to see the shape of its batches too
            one = self.text.all_batches[0].tokens[:1]
            pruned.model.embed([one.repeat(count, 1) for count in self.reconstructor.counts])
        count, text = len(tokens), len(tokens) + len(dense.batches)
        if self.output is None:
            needed = self._needed(self.samples, dense)
            states = self.model.embed([*tokens, *dense.tokens], dense.questions.branches, needed)
            dense.states, dense.asked = states[count:text], states[text:]
            pruned.states, pruned.asked = [*dense.states], [*dense.asked]
            return _Calibration(states[:count], states[:count] if dense.work.follows else [])
        shapes = [torch.zeros_like(batch) for batch in tokens]  # one model sees only the shape of the other's text
        in_dense = self.config.order == "dense"
        # In that order, the statistics are those of the output's blocks on the dense model's states.
        found = {}
        for side, own in ((dense, in_dense), (pruned, not in_dense)):
            needed = self._needed(self.samples if own else {}, side)
            embedded = side.model.embed([*(tokens if own else shapes), *side.tokens], side.questions.branches, needed)
            side.states, side.asked = embedded[count:text], embedded[text:]
            found[own] = embedded[:count]
        # Tokens that are kept have the same embedding in both models.
        return _Calibration(found[True], [*found[True]] if dense.work.follows and not in_dense else [])

    def _needed(self, calibration: Samples, side: Side) -> Tensor | None:
        """All tokens of the text and the requests, whose embedding the ranks read together; None if there is one."""
        if self.ranks.count == 1:
            return None
        texts = [sample.tokens for sample in (*calibration.values(), *side.text.values())]
        asked = self.ranks.share(lambda: [part for each in side.questions.branches for part in each.parts])
        return torch.unique(torch.cat([part.flatten() for part in (*texts, *asked)]))

    def _neurons(self, blocks: Sequence[BlockRecord]) -> NeuronSurvey | None:
        """What became of the neurons of each language, if that was asked for."""
        if self.dense.watch is None or self.pruned.watch is None:
            return None
        places = {
            index: place for index in range(self.model.num_blocks) if (place := self.steps.place(index)) is not None
        }
        return survey_neurons(self.dense.watch, self.pruned.watch, {block.index: block for block in blocks}, places)

    @property
    def _keeps_tokens(self) -> bool:
        return self.output is None or self.output.plan.keeps_tokens

    def _tick_head(self, work: float) -> None:
        own, everything = (
            sum(batch.tokens.numel() for batch in batches) + self.dense.questions.scored
            for batches in (self.dense.batches, self.dense.all_batches)
        )
        self.meter.tick("head", work * everything / own)  # all ranks are done at about the same time

    def _place_states(self) -> None:
        """Keep the hidden states on the host if they would take too much of an accelerator's memory."""
        if self.model.states_device.type != "cuda":
            return
        hidden = self.model.checkpoint.tensors[self.model.checkpoint.embedding_name].shape[1]
        goal = self.calibration if self.dense.work.follows else ()
        batches = (*self.calibration, *goal, *self.dense.batches, *self.pruned.batches)
        tokens = sum(batch.tokens.numel() for batch in batches)
        tokens += self.dense.questions.tokens + self.pruned.questions.tokens
        needed, free = tokens * hidden * self.model.dtype.itemsize, torch.cuda.mem_get_info(self.model.device)[0]
        if needed > MAX_STATES_SHARE * free:
            for side in (self.dense, self.pruned):
                side.model.states_device = torch.device("cpu")
            self.observer.log("info", "hidden states wait on the host", bytes=needed, free_device_bytes=free)

    def _check(self) -> None:
        """Trim, settle and check; called between two pieces of work."""
        self.heap.trim()
        self.writer.settle()
        self.observer.check()

    def _plan(self, finished: Mapping[int, BlockRecord]) -> None:
        """Announce the work; what earlier attempts did counts as done."""
        self.meter.begin(self.pruned.model.num_blocks, len(finished))
        self.steps.plan(self.meter, finished)
        self.meter.plan("head", self.steps.head)
        if self.dense.states and self.ranks.count == 1:
            self.meter.gauge(
                "head", *self.model.head.time(self.dense.states[0], self.dense.work.head(), self.meter.effort)
            )
            self.meter.lap()

    def _run_block(
        self,
        index: int,
        finished: Mapping[int, BlockRecord],
        calibration: _Calibration,
    ) -> None:
        """Run all states through one block, in place, and prune it on the way unless it is finished."""
        began = time.monotonic()
        measure = self.stopwatch.measure
        place = self.steps.place(index)
        with contextlib.ExitStack() as memory:
            with measure("load"):
                stored = self.reader.take(index)
                kept: dict[str, Tensor] = {}
                if self.output and place is not None:
                    kept = {**stored, **self.output.reader.solved(stored.keys())}
                block = memory.enter_context(self.model.block(index, stored))
            with measure("evaluate"):
                self.dense.propagate(block, index, self.meter, self._check)
            record = finished.get(place) if place is not None else None
            beside = self.steps.runs_beside and record is None
            before = list(calibration.goal) if self.config.asymmetric and not beside else calibration.goal
            if calibration.goal and not beside:
                with measure("prune"):
                    self.pruner.carry(self.model, block, index, calibration.goal, self.dense.work.running(index))
            if place is None:
                with measure("prune"):
                    self._carry_dense(block, index, calibration.states)
                return
            written = block
            narrowed: Narrowed = {}
            if self.output is not None:
                with measure("prune"):
                    cut, narrowed = self._narrow(block, index, place, kept, calibration, record)
                with measure("load"):
                    written = memory.enter_context(self.pruned.model.block(place, cut, shared=True))
                del kept, cut
            layers: Sequence[LayerRecord] = ()
            goal: Sequence[Tensor] = ()
            if record is None and self.config.looks_beyond and not beside:
                with measure("prune"):
                    goal = self._beyond_removed(index, calibration.goal)
            prunes = record is None and bool(self.config.targets)
            with measure("prune"):
                if prunes:
                    dense = None
                    if self.config.asymmetric:
                        other = self.model.copy_of(block) if beside else block
                        dense = DenseStream(self.model, other, index, before, None if beside else goal)
                    layers = self.pruner.prune(written, place, calibration.states, dense)
                    del dense
                    goal = calibration.goal if beside else goal
                if self.config.order == "dense" and (not prunes or self.output is not None):
                    self._carry_dense(block, index, calibration.states)
            if record is not None:
                with measure("load"):
                    self._restore(place, record)
            reconstruction = None
            if self.reconstructor is not None and record is None:
                self._trained_place = place
                with measure("prune"):
                    reconstruction = self.reconstructor.train(written, place, calibration.states, goal)
                    layers = self._counted(written, place, layers)
            carried = prunes and self.reconstructor is None
            if not carried and self.config.order != "dense" and place + 1 < self.pruned.model.num_blocks:
                with measure("prune"):
                    self.pruner.carry(self.pruned.model, written, place, calibration.states, self.work.carrying(place))
            with measure("evaluate"):
                self.pruned.propagate(written, place, self.meter, self._check)
                # States of different tokens cannot be compared.
                noise = snr_db(self.dense, self.pruned, self._check, self.ranks) if self._keeps_tokens else {}
            if record is None and self.config.writes:
                outputs = self.pruned.model.output_tensors(written, place)
                seconds = time.monotonic() - began
                self.writer.submit(place, outputs, layers, noise, seconds, narrowed, reconstruction)

    def _narrow(
        self,
        block: nn.Module,
        index: int,
        place: int,
        stored: dict[str, Tensor],
        calibration: _Calibration,
        record: BlockRecord | None,
    ) -> tuple[dict[str, Tensor], Narrowed]:
        """The tensors of a block of the output by their names there, and what became of its units."""
        assert self.output is not None
        narrower = self.narrower
        narrowed: Narrowed = {}
        if narrower is not None and record is not None:
            stored = {**stored, **narrower.placeholders(index, stored)}
        elif narrower is not None:
            reaches = self.config.solves_towards_dense and self.dense.work.follows
            goal = calibration.goal if reaches else None
            cut, narrowed = narrower.narrow(block, index, place, stored, calibration.states, goal)
            self.meter.tick("calibrate", self.dense.work.narrowing(index))
            stored = {**stored, **cut}
        return self.output.reader.cut_block(stored), narrowed

    def _tick_training(self, share: float) -> None:
        self.meter.tick("calibrate", share * self.work.training(self._trained_place))

    def _beyond_removed(self, index: int, goal: list[Tensor]) -> list[Tensor]:
        """What the dense model has after a block, or after the removed ones that follow it, which it has to stand for.

        These blocks are read once more for this.
        """
        beyond = list(goal)
        for removed in self.steps.removed_after(index):
            with self.model.block(removed) as block:
                self.pruner.carry(self.model, block, removed, beyond, self.dense.work.following(removed))
        return beyond

    def _counted(self, block: nn.Module, place: int, layers: Sequence[LayerRecord]) -> list[LayerRecord]:
        """The layers with their zeros counted, and their masks sampled, again."""
        checkpoint = self.pruned.model.checkpoint
        weights = {
            checkpoint.linear_weight(place, name).name: linear.weight
            for name, linear in self.pruned.model.linears(block, place).items()
        }
        return [
            replace(
                layer,
                zeros=weights[layer.name].numel() - nonzeros(weights[layer.name]),
                mask_sample=sample_mask(layer.name, weights[layer.name]),
            )
            for layer in layers
        ]

    def _carry_dense(self, block: nn.Module, index: int, calibration: list[Tensor]) -> None:
        if self.config.order == "dense" and index + 1 < self.model.num_blocks:
            self.pruner.carry(self.model, block, index, calibration, self.steps.carrying(index))

    def _finished_blocks(self) -> dict[int, BlockRecord]:
        """The leading blocks that are in the ledger, have this pass's fingerprint, and still exist."""
        finished: dict[int, BlockRecord] = {}
        for record in self.ledger.entries():
            is_next = record.index == len(finished) and record.fingerprint == self.config.fingerprint
            if not is_next or not self.config.shards.holds(record):
                break
            finished[record.index] = record
        if finished:
            message = "resuming after the finished blocks; text goes through these again, so progress begins lower"
            self.observer.log("info", message, finished_blocks=len(finished), of_blocks=self.model.num_blocks)
        return finished

    def _restore(self, index: int, record: BlockRecord) -> None:
        reader = self.ranks.reader(TensorReader())
        header = read_header(self.ranks.share(lambda: self.config.shards.fetch(record)))
        self.pruned.model.load_into(index, {name: reader.read(info) for name, info in header.items()})
        self.config.shards.move(record)
