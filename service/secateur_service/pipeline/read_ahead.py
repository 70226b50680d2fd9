"""Reads the next block while the pass computes with the current one.

A few threads read one tensor each, and hash and check it on the way: a single one would be slower than an accelerator
prunes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from torch import Tensor

from secateur_service.models.safetensors import TensorInfo
from secateur_service.models.streaming import StreamedModel
from secateur_service.pipeline.stopwatch import Stopwatch
from secateur_service.pipeline.waiting import wait_for

_MAX_READERS = 4


class BlockReader:
    """Hands out the stored weights of one block after another, while reading the next from disk.

    Args:
        model: the model whose blocks are read.
        stopwatch: is charged for the reading.
        check: called while waiting for a block; raises to stop.
        in_turn: whether tensors are read one after the other: ranks that read together need one order.
    """

    def __init__(
        self, model: StreamedModel, stopwatch: Stopwatch, check: Callable[[], None], *, in_turn: bool = False
    ) -> None:
        self._check = check
        self._model = model
        self._stopwatch = stopwatch
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        readers = 1 if in_turn else min(_MAX_READERS, os.cpu_count() or 1)
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="read-tensor")
        self._pending: Future[dict[str, Tensor]] | None = None

    def __enter__(self) -> Self:
        self._pending = self._thread.submit(self._read, 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._readers.shutdown(cancel_futures=True)
        self._thread.shutdown(cancel_futures=True)

    def take(self, index: int) -> dict[str, Tensor]:
        """The weights of a block, to be taken one by one in order; starts reading the next block.

        Raises:
            ModelRefusedError: a tensor is missing.
            OSError, EOFError: a file cannot be read.
            FloatingPointError: a weight is not finite; the message names it.
        """
        assert self._pending is not None
        tensors, self._pending = wait_for(self._pending, self._check), None
        if index + 1 < self._model.num_blocks:
            self._pending = self._thread.submit(self._read, index + 1)
        return tensors

    def _read(self, index: int) -> dict[str, Tensor]:
        with self._stopwatch.measure_background("load"):
            return self._model.read_block(index, self._across)

    def _across(self, function: Callable[[TensorInfo], Tensor], items: Iterable[TensorInfo]) -> Iterable[Tensor]:
        def read(info: TensorInfo) -> Tensor:
            with self._stopwatch.measure_helper("load"):
                return function(info)

        return self._readers.map(read, items)
