"""What a helper does: its part of every pass, with nothing to say for itself (`pipeline.team`)."""

from __future__ import annotations

import contextlib
import pickle
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from secateur_service.durable import write_durably
from secateur_service.models.opening import open_checkpoint
from secateur_service.models.streaming import StreamedModel
from secateur_service.models.tensors import TensorReader
from secateur_service.pipeline.ranks import LostRankError, ProcessRanks
from secateur_service.pipeline.shards import Shards
from secateur_service.pipeline.stopwatch import Stopwatch
from secateur_service.pipeline.streaming_pass import run_pass
from secateur_service.pipeline.team import SentPass, alive_file, connect, failure_file, usage
from secateur_service.records.blocks import BlockRecord
from secateur_service.records.progress import Progress, Stage

EXIT_FAILED = 1
_TOUCH_SECONDS = 1.0


def help_job(rank: int, count: int, folder: Path) -> int:
    """Help with passes until there are no more; returns the exit code.

    Args:
        rank: of this process, at least 1.
        count: how many processes there are.
        folder: private to them.
    """
    observer = _Silent(alive_file(folder, rank))
    observer.check()

    def lost(error: Exception) -> Exception:
        return LostRankError(str(error))

    try:
        ranks = connect(rank, count, folder, lambda _: observer.check(), lost)
        while (sent := ranks.share(_nothing)) is not None:
            _run(ranks, sent, observer)
            ranks.collect([usage(ranks)])
    except LostRankError:
        return EXIT_FAILED
    except Exception as error:
        with contextlib.suppress(Exception):  # not every error can be sent; then its exit code tells
            write_durably(failure_file(folder, rank), pickle.dumps(error))
        raise
    return 0


def _run(ranks: ProcessRanks, sent: SentPass, observer: _Silent) -> None:
    torch.set_num_threads(sent.threads)
    model = StreamedModel(open_checkpoint(sent.model), torch.device("cpu"), sent.dtype)
    model.states_folder, model.small_batches = sent.states_folder, sent.small_batches
    ranks.begin()  # opening a model loads its library, which belongs to the start
    model.reader = ranks.reader(TensorReader())
    with contextlib.closing(Shards(sent.shards)) as shards:
        run_pass(model, replace(sent.config, shards=shards), _NoLedger(), observer, Stopwatch(), ranks=ranks)


def _nothing() -> Any:
    raise AssertionError("the first rank sends the pass")


class _NoLedger:
    """The first rank has the ledger."""

    def entries(self) -> list[BlockRecord]:
        """None."""
        return []

    def record(self, record: BlockRecord) -> None:
        """Nothing."""


class _Silent:
    """Shows that the process is well, and nothing else."""

    def __init__(self, alive: Path) -> None:
        self._alive = alive
        self._touched = -_TOUCH_SECONDS

    def stage(self, stage: Stage) -> None:
        """Nothing."""

    def progress(self, progress: Progress) -> None:
        """Nothing."""

    def block(self, record: BlockRecord) -> None:
        """Nothing."""

    def log(self, level: str, message: str, **fields: Any) -> None:
        """Nothing: the first rank says the same."""

    def check(self) -> None:
        """Go on."""
        now = time.monotonic()
        if now - self._touched >= _TOUCH_SECONDS:
            self._touched = now
            with contextlib.suppress(OSError):  # the folder is gone once the job has ended
                self._alive.touch()
