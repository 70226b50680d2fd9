"""Where finished blocks are: each is written locally, and moved to the object store while later ones are pruned.

So the disk holds a few blocks instead of a whole checkpoint, publishing has little left to upload, and a job can resume
with its finished blocks on another machine. What cannot be moved stays here until publishing uploads it: an unavailable
object store does not stop the pruning. The name of a shard contains its content's digest, so that different content
cannot appear under the same name.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import structlog

from secateur_service import faults
from secateur_service.artifacts import ObjectStore
from secateur_service.durable import file_digest
from secateur_service.errors import AttemptError, TransientError
from secateur_service.models.safetensors import SHARD_PREFIX
from secateur_service.pipeline.observer import RecordingObserver
from secateur_service.pipeline.patience import Patience
from secateur_service.pipeline.waiting import wait_for
from secateur_service.records.blocks import BlockRecord

MEDIA_TYPE = "application/octet-stream"

# Blocks that may wait to be moved; if there are more, the pass waits.
_MAX_WAITING = 2

_log = structlog.get_logger(__name__)


class _Abandoned(Exception):  # noqa: N818 - nothing is wrong
    """An upload was abandoned because nothing waits for it any more."""


class Shards:
    """The shards of one job.

    Args:
        folder: on this machine.
        store: where to move them; None keeps them here.
        prefixes: the job's prefix in the store, then those of other jobs that may have its blocks; empty for the root.
        measure: charges the time of the moves, which run in the background.
        patience: waits for the store where a finished block is looked for; the moves do not wait.

    Attributes:
        folder: as given.
    """

    def __init__(
        self,
        folder: Path,
        *,
        store: ObjectStore | None = None,
        prefixes: Sequence[str] = ("",),
        measure: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
        patience: Patience | None = None,
    ) -> None:
        self.folder = folder
        self._store = store
        self._prefixes = tuple(prefixes)
        self._measure = measure
        self._patience = patience or Patience(0.0, RecordingObserver())
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="upload")
        self._context = contextvars.copy_context()  # the thread's traces and logs inherit the context of its creator
        self._closed = threading.Event()
        self._waiting: deque[Future[None]] = deque()

    def holds(self, record: BlockRecord) -> bool:
        """Whether the shard of a finished block still exists, unchanged in size.

        One that an earlier release named differently does not count: tools that look for `model*.safetensors` would
        miss it.
        """
        if not record.shard.startswith(SHARD_PREFIX):
            return False
        return self._is_here(record) or self._find_patiently(record) is not None

    def fetch(self, record: BlockRecord) -> Path:
        """The shard as a file in the folder; one that was moved is downloaded, to be moved again later.

        Raises:
            TransientError: the stored shard is gone or damaged; a damaged one is deleted, so that the block is computed
                again.
        """
        path = self.folder / record.shard
        if self._is_here(record):
            return path
        store, key = self._store, self._find_patiently(record)
        if store is None or key is None:
            raise TransientError(f"the finished block {record.shard} is gone", reason="SHARD_GONE")
        self._patience.insist("reading finished blocks", lambda: store.get_file(key, path))
        if file_digest(path) != record.sha256:
            path.unlink()
            store.delete(key)
            raise TransientError(f"the finished block {record.shard} was damaged", reason="SHARD_DAMAGED")
        return path

    def move(self, record: BlockRecord, check: Callable[[], None] = lambda: None) -> None:
        """Start moving a finished block to the store; waits while too many moves are pending.

        Args:
            record: the block.
            check: called periodically while waiting; raises to stop.
        """
        if self._store is None:
            return
        while len(self._waiting) >= _MAX_WAITING:
            wait_for(self._waiting[0], check)
            self._waiting.popleft()
        self._waiting.append(self._thread.submit(self._context.run, self._move, record))

    def settle(self, check: Callable[[], None]) -> None:
        """Wait for pending moves; `check` is called periodically, and raises to stop."""
        while self._waiting:
            wait_for(self._waiting[0], check)
            self._waiting.popleft()

    def close(self) -> None:
        """Stop moving blocks; pending ones stay here, unless `settle` waited for them."""
        self._closed.set()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _go_on(self, _: int) -> None:
        """Abandon the upload if nothing waits for it any more."""
        if self._closed.is_set():
            raise _Abandoned

    def _move(self, record: BlockRecord) -> None:
        assert self._store is not None
        path, key = self.folder / record.shard, self._key(self._prefixes[0], record)
        try:
            with self._measure():
                if not self._is_stored(key, record):
                    self._store.put_file(path, key, MEDIA_TYPE, self._go_on)
                faults.reached("block.stored")
                if self._is_stored(key, record):
                    path.unlink(missing_ok=True)
        except _Abandoned:
            return
        except AttemptError as error:
            _log.warning("a finished block could not be moved yet", shard=record.shard, error=error.message)

    def _is_here(self, record: BlockRecord) -> bool:
        path = self.folder / record.shard
        return path.is_file() and path.stat().st_size == record.size_bytes

    def _find_patiently(self, record: BlockRecord) -> str | None:
        return self._patience.insist("looking for finished blocks", lambda: self._find(record))

    def _find(self, record: BlockRecord) -> str | None:
        """The key under which the shard is stored; None if it is not."""
        keys = (self._key(prefix, record) for prefix in self._prefixes)
        return next((key for key in keys if self._is_stored(key, record)), None)

    def _is_stored(self, key: str, record: BlockRecord) -> bool:
        info = self._store.stat(key) if self._store is not None else None
        return info is not None and info.size_bytes == record.size_bytes

    def _key(self, prefix: str, record: BlockRecord) -> str:
        path = f"checkpoint/{record.shard}"
        return f"{prefix}/{path}" if prefix else path
