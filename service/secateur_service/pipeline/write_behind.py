"""Writes pruned blocks while the pass continues with the next one.

Once a block's shard is durable, the pass itself records the block and notifies the observer: ledger and observer are
never called from another thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from secateur_service import faults
from secateur_service.errors import CancelledError, PreemptedError
from secateur_service.models.safetensors import OutputTensor, WrittenFile, write_shard
from secateur_service.pipeline.ledger import BlockLedger
from secateur_service.pipeline.observer import JobObserver
from secateur_service.pipeline.shards import Shards
from secateur_service.pipeline.stopwatch import Stopwatch
from secateur_service.pipeline.waiting import wait_for
from secateur_service.records.blocks import Axis, BlockRecord, LayerRecord, NarrowedRecord, ReconstructionRecord


class BlockWriter:
    """Writes one block at a time; the next one waits for it, so that memory stays bounded.

    Args:
        shards: where the blocks go.
        fingerprint: recorded with each block, to identify how it was made.
        ledger: lists a block once it is durable.
        observer: is notified of a block once it is in the ledger.
        stopwatch: is charged for the writing.

    Attributes:
        records: the finished blocks, in order.
    """

    def __init__(
        self, shards: Shards, fingerprint: str, ledger: BlockLedger, observer: JobObserver, stopwatch: Stopwatch
    ) -> None:
        self.records: list[BlockRecord] = []
        self._shards = shards
        self._fingerprint = fingerprint
        self._ledger = ledger
        self._observer = observer
        self._stopwatch = stopwatch
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="write-behind")
        self._pending: Future[BlockRecord] | None = None

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
            self._thread.shutdown()

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
        """Start writing a block; waits while the previous one is being written.

        Raises:
            OSError: the previous block could not be written.
        """
        if self._pending is not None:
            wait_for(self._pending, self._observer.check)
        self.settle(wait=True)

        def write() -> BlockRecord:
            with self._stopwatch.measure_background("write"):
                shard: WrittenFile = write_shard(self._shards.folder, f"block-{index:05d}", outputs)
            faults.reached("block.written")
            return BlockRecord(
                index=index,
                shard=shard.name,
                sha256=shard.sha256,
                size_bytes=shard.size_bytes,
                tensors=tuple(output.name for output in outputs),
                layers=tuple(layers),
                snr_db=snr_db,
                seconds=seconds,
                fingerprint=self._fingerprint,
                feed_forward=narrowed.get("feed_forward"),
                attention=narrowed.get("attention"),
                reconstruction=reconstruction,
            )

        self._pending = self._thread.submit(write)

    def settle(self, *, wait: bool = False) -> None:
        """Record the pending block, if it is durable by now or if `wait` is set.

        Raises:
            OSError: it could not be written.
        """
        if self._pending is None or not (wait or self._pending.done()):
            return
        record, self._pending = self._pending.result(), None
        self.records.append(record)
        self._ledger.record(record)
        faults.reached("block.recorded")
        self._observer.block(record)
        self._shards.move(record, self._observer.check)
