"""What a helper does: its part of every task, with nothing to say for itself (`pipeline.team`)."""

from __future__ import annotations

import contextlib
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from secateur_service.models.tensors import TensorReader
from secateur_service.pipeline.ranks import LostRankError
from secateur_service.pipeline.team import alive_file, connect, failure_line, usage
from secateur_service.records.blocks import BlockRecord
from secateur_service.records.progress import Progress, Stage

EXIT_FAILED = 1
_TOUCH_SECONDS = 1.0


def help_job(rank: int, count: int, folder: Path) -> int:
    """Help with tasks until there are no more; returns the exit code.

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
            model, task = sent[0].open(), sent[1]
            ranks.begin()  # opening a model loads its library, which belongs to the start
            model.reader = ranks.reader(TensorReader())
            task.help(model, ranks, observer)
            ranks.collect([usage(ranks)])
    except LostRankError:
        return EXIT_FAILED
    except Exception as error:
        error.add_note(traceback.format_exc())  # the first rank raises it, and is somewhere else
        with contextlib.suppress(Exception):  # not every error can be sent; then its exit code tells
            sys.stdout.buffer.write(failure_line(error))
            sys.stdout.buffer.flush()
            return EXIT_FAILED
        raise
    return 0


def _nothing() -> Any:
    raise AssertionError("the first rank sends the tasks")


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
