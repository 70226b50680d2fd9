"""Hidden states of evaluation text in dense models, kept on this machine for the jobs that come next.

The jobs of a sweep evaluate one dense model on one text. What a block makes of hidden states depends on these, on its
weights, and on the arithmetic; under a digest of all three the result is kept, so whoever finds it would have computed
the same bytes. A file that does not have the content that it had when it was written is not used.

Kept on the host alone: an accelerator runs a block faster than a disk returns what it makes of the states.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import structlog
import torch
from torch import Tensor

from secateur_service.models.streaming import StreamedModel
from secateur_service.models.tensors import TensorReader, memory_of
from secateur_service.pipeline.attempt import Machine
from secateur_service.pipeline.fingerprint import arithmetic

_PARTIAL = ".partial"
_PIECE_BYTES = 16 << 20
_log = structlog.get_logger(__name__)


class SharedStates:
    """States after every block of one model, for one text; follows a pass from block to block.

    Args:
        folder: of all models and texts.
        limit_bytes: the most that the folder may hold; what was not used for longest goes first.
        conditions: what the arithmetic depends on beside weights and states, as plain JSON types.
        weights: digests of the tensors of a block that has been read, by name; None of those that it does not use.

    Attributes:
        counts: blocks whose states were `computed`, and of which they were `found`.
    """

    def __init__(
        self,
        folder: Path,
        limit_bytes: int,
        conditions: Mapping[str, Any],
        weights: Callable[[int], Mapping[str, str | None]],
    ) -> None:
        self.counts = {"computed": 0, "found": 0}
        self._folder, self._limit_bytes = folder, limit_bytes
        self._conditions = dict(conditions)
        self._weights = weights
        self._states, self._key = "", ""
        self._is_on = True

    @classmethod
    def of(cls, machine: Machine, model: StreamedModel) -> SharedStates | None:
        """Those of a model on this machine; None where nothing is to be kept."""
        reader, checkpoint = model.reader, model.checkpoint
        if machine.states_dir is None or not machine.states_bytes or model.device.type != "cpu":
            return None
        if not isinstance(reader, TensorReader):  # others do not know the digests of blocks
            return None
        conditions = {**arithmetic(model.device, model.dtype), "config": checkpoint.config}

        def weights(index: int) -> dict[str, str | None]:
            return {info.name: reader.digests.get(info.name) for info in checkpoint.block_tensors(index)}

        return cls(machine.states_dir, machine.states_bytes, conditions, weights)

    def begin(
        self, states: Sequence[Tensor], tokens: Sequence[Tensor], groups: Sequence[Sequence[int]], blocks: int
    ) -> None:
        """Start a pass over a model.

        Args:
            states: before the first block.
            tokens: the ids that they stand for, on which the arguments of a block may depend.
            groups: the group of each sequence, where some share their beginnings.
            blocks: how many there are.
        """
        self._conditions["states"] = [[*each.shape, str(each.dtype)] for each in states]
        self._conditions["tokens"] = _digest(memory_of(each.contiguous()) for each in tokens)
        self._conditions["groups"] = [*groups]
        needed = blocks * sum(each.nbytes for each in states)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # More than the limit would push out its own beginning.
            self._is_on = 0 < needed <= min(self._limit_bytes, shutil.disk_usage(self._folder).free // 2)
        except OSError as error:
            self._stop(error)
        if self._is_on:
            self._states = _digest(memory_of(each.contiguous()) for each in states)

    def recall(self, index: int, states: list[Tensor], put_aside: Callable[[Tensor], Tensor]) -> bool:
        """Replace the states before a block by those after it, if they are there; otherwise `keep` is to follow.

        Args:
            index: the block, whose weights have been read.
            states: before the block; replaced one by one.
            put_aside: moves states to where they wait.
        """
        if not self._is_on:
            return False
        named = json.dumps([self._conditions, index, self._weights(index), self._states], sort_keys=True)
        self._key = hashlib.sha256(named.encode()).hexdigest()
        with contextlib.ExitStack() as opened:
            try:
                file = opened.enter_context((self._folder / self._key).open("rb"))
                digest = _verified(file, sum(each.nbytes for each in states))
                os.utime(file.fileno())
            except FileNotFoundError:
                return False
            except OSError as error:
                self._stop(error)
                return False
            if digest is None:
                _log.warning("hidden states that were kept are damaged, and are computed again", file=self._key)
                return False
            file.seek(0)
            for position, before in enumerate(states):
                after = torch.empty_like(before, memory_format=torch.contiguous_format)
                file.readinto(memory_of(after))
                states[position] = put_aside(after)
        self._states = digest
        self.counts["found"] += 1
        return True

    def keep(self, states: Sequence[Tensor]) -> None:
        """Keep the states after the block that was asked for last."""
        self.counts["computed"] += 1
        if not self._is_on:
            return
        views = [memory_of(each.contiguous()) for each in states]
        self._states = _digest(views)
        path = self._folder / self._key
        partial = path.with_name(f"{path.name}{_PARTIAL}{os.getpid()}")
        try:
            self._make_room(sum(map(len, views)))
            with partial.open("wb") as file:
                for view in views:
                    file.write(view)
                file.write(bytes.fromhex(self._states))
            partial.replace(path)
        except OSError as error:
            self._stop(error)
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)

    def _make_room(self, needed: int) -> None:
        files = []
        for entry in os.scandir(self._folder):
            with contextlib.suppress(FileNotFoundError):  # another worker makes room as well
                found = entry.stat()
                files.append((found.st_mtime, found.st_size, entry.path))
        used = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if used + needed <= self._limit_bytes:
                return
            Path(path).unlink(missing_ok=True)
            used -= size

    def _stop(self, error: OSError) -> None:
        """Keep nothing any more: a job never fails for it."""
        self._is_on = False
        _log.warning("hidden states are not kept for later jobs", folder=str(self._folder), error=str(error))


def _digest(views: Iterable[memoryview]) -> str:
    digest = hashlib.sha256()
    for view in views:
        digest.update(view)
    return digest.hexdigest()


def _verified(file: BinaryIO, size_bytes: int) -> str | None:
    """The digest of the states in a file, which follows them; None if they are not what was written."""
    digest, left = hashlib.sha256(), size_bytes
    while left and (piece := file.read(min(_PIECE_BYTES, left))):
        digest.update(piece)
        left -= len(piece)
    return digest.hexdigest() if file.read() == digest.digest() and not left else None
