"""Writes pruned blocks while the pass continues with the next one.

A block is hashed while another thread writes it, and leaves memory before the disk is waited for: the next one need not
wait for that. A file's digest takes one thread however many there are, so beside an accelerator two blocks are hashed
at once.

Once a block's shard is durable, the pass itself records the block and notifies the observer: ledger and observer are
never called from another thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from secateur_service import faults
from secateur_service.errors import CancelledError, PreemptedError
from secateur_service.models.safetensors import OutputTensor, WrittenFile, fill_shard
from secateur_service.pipeline.ledger import BlockLedger
from secateur_service.pipeline.observer import JobObserver
from secateur_service.pipeline.shards import Shards
from secateur_service.pipeline.stopwatch import Stopwatch
from secateur_service.pipeline.waiting import acquire, wait_for
from secateur_service.pruning.ranks import ALONE, Ranks
from secateur_service.records.blocks import Axis, BlockRecord, LayerRecord, NarrowedRecord, ReconstructionRecord


class BlockWriter:
    """Writes one block at a time, or a few; the next one waits for them, so that memory stays bounded.

    Args:
        shards: where the blocks go.
        fingerprint: recorded with each block, to identify how it was made.
        ledger: lists a block once it is durable.
        observer: is notified of a block once it is in the ledger.
        stopwatch: is charged for the writing.
        at_once: how many blocks may be in memory to be written.
        ranks: take turns at writing.

    Attributes:
        records: the finished blocks, in order.
    """

    def __init__(
        self,
        shards: Shards,
        fingerprint: str,
        ledger: BlockLedger,
        observer: JobObserver,
        stopwatch: Stopwatch,
        at_once: int = 1,
        ranks: Ranks = ALONE,
    ) -> None:
        self.records: list[BlockRecord] = []
        self._shards = shards
        self._fingerprint = fingerprint
        self._ledger = ledger
        self._observer = observer
        self._stopwatch = stopwatch
        self._ranks = ranks
        self._room = threading.Semaphore(at_once)
        self._most = at_once + 1  # one more only waits for the disk
        self._threads = ThreadPoolExecutor(self._most, thread_name_prefix="write-behind")
        self._writers = ThreadPoolExecutor(at_once, thread_name_prefix="write-pieces")
        self._pending: deque[Future[BlockRecord]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            # A stopped job keeps what is finished; a failed one gains nothing from one more block.
            if error is None or isinstance(error, CancelledError | PreemptedError):
                self.settle(wait=True)
        finally:
            self._threads.shutdown()
            self._writers.shutdown()

    def submit(
        self,
        index: int,
        outputs: list[OutputTensor],
        layers: Sequence[LayerRecord],
        snr_db: Mapping[str, float],
        seconds: float,
        narrowed: Mapping[Axis, NarrowedRecord],
        reconstruction: ReconstructionRecord | None,
    ) -> None:
        """Start writing a block; waits while there is no room for it.

        Args:
            index: its position.
            outputs: its tensors, consumed.
            layers: what became of its layers.
            snr_db: of its output, by language.
            seconds: how long it took.
            narrowed: what became of its units.
            reconstruction: how its weights were trained, if they were.

        Raises:
            OSError, FloatingPointError: an earlier block could not be written.
        """
        while len(self._pending) >= self._most:
            wait_for(self._pending[0], self._observer.check)
            self.settle()
        acquire(self._room, self._observer.check)
        self.settle()
        names = tuple(output.name for output in outputs)

        def leave() -> None:
            outputs.clear()
            self._room.release()

        def fill() -> WrittenFile:
            try:
                filled = fill_shard(self._shards.folder, f"block-{index:05d}", outputs, self._aside)
            finally:
                leave()
            return filled.publish()

        def write() -> BlockRecord:
            with self._stopwatch.measure_background("write"):
                if not self._ranks.writes(index):
                    leave()
                shard: WrittenFile = self._ranks.write(index, fill)
            faults.reached("block.written")
            return BlockRecord(
                index=index,
                shard=shard.name,
                sha256=shard.sha256,
                size_bytes=shard.size_bytes,
                tensors=names,
                layers=tuple(layers),
                snr_db=snr_db,
                seconds=seconds,
                fingerprint=self._fingerprint,
                feed_forward=narrowed.get("feed_forward"),
                attention=narrowed.get("attention"),
                reconstruction=reconstruction,
            )

        self._pending.append(self._threads.submit(write))

    def settle(self, *, wait: bool = False) -> None:
        """Record the pending blocks that are durable by now, or all if `wait` is set, in order.

        Raises:
            OSError, FloatingPointError: one could not be written.
        """
        while self._pending and (wait or self._pending[0].done()):
            record = self._pending.popleft().result()
            self.records.append(record)
            self._ledger.record(record)
            faults.reached("block.recorded")
            self._observer.block(record)
            self._shards.move(record, self._observer.check)

    def _aside(self, write: Callable[[memoryview | bytes], None], piece: memoryview | bytes) -> Future[None]:
        def measured() -> None:
            with self._stopwatch.measure_helper("write"):
                write(piece)

        return self._writers.submit(measured)
