"""Several processes of one job, over torch.distributed: what `pruning.ranks` describes, and reading and writing.

Whoever waits for others asks every now and then whether the job is to go on and whether the others still run, because
the library itself would wait for hours for a process that hangs.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import pickle
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from secateur_service.models.safetensors import OutputTensor, TensorInfo, WrittenFile
from secateur_service.models.tensors import DTYPES, TensorReader, memory_of
from secateur_service.pruning.ranks import Ranks

_POLL = timedelta(seconds=1)
# Smaller tensors are read by one rank.
_DIVIDED_BYTES = 64 << 10
_POLL_FILE_SECONDS = 0.01
FOREVER = timedelta(days=7)
"""The library's own limit on waiting; it ends nothing here."""


class ProcessRanks(Ranks):
    """One of several processes; all of them are on one machine.

    Args:
        rank: the number of this one.
        count: how many there are.
        group: exchanges tensors.
        reading: the same, for what is read meanwhile in another thread: a group's exchanges need one order.
        folder: of all of them, and of nobody else.
        look: called while waiting for the others, with the seconds waited so far; raises to stop.
        loss: makes the error to raise when the connection to another is lost.

    Attributes:
        began: processor seconds that this one had taken when the pass began.
        bytes_read: what this one has read of the model in the pass.
    """

    def __init__(
        self,
        rank: int,
        count: int,
        group: dist.ProcessGroup,
        reading: dist.ProcessGroup,
        folder: Path,
        look: Callable[[float], None],
        loss: Callable[[Exception], Exception],
    ) -> None:
        self.rank = rank
        self.count = count
        self.bytes_read = 0
        self.began = 0.0
        self._passes = 0
        self._thread = threading.get_ident()
        self._group = group
        self._reading = reading
        self._folder = folder
        self._look = look
        self._loss = loss

    def begin(self) -> None:
        """Begin a pass, which the calling thread runs."""
        self._passes += 1
        self._thread = threading.get_ident()
        self.began, self.bytes_read = time.process_time(), 0

    def collect(self, values: Sequence[Any]) -> list[Any]:
        """See `Ranks`."""
        content = pickle.dumps(list(values))
        sizes = self._sizes(len(content))
        found = self.gather(torch.frombuffer(bytearray(content), dtype=torch.uint8), sizes)
        ends = list(itertools.accumulate(sizes))
        parts = [bytes(found[end - size : end].numpy()) for size, end in zip(sizes, ends, strict=True)]
        return [value for part in parts for value in pickle.loads(part)]  # noqa: S301 - of our own processes

    def share(self, make: Callable[[], Any]) -> Any:
        """See `Ranks`."""
        return self.collect([make()] if self.rank == 0 else [])[0]

    def compute(self, make: Callable[[], Tensor], empty: Callable[[], Tensor]) -> Tensor:
        """See `Ranks`."""
        found = make().contiguous() if self.rank == 0 else empty()
        self._broadcast([(found, 0)])
        return found

    def gather(self, own: Tensor, sizes: Sequence[int]) -> Tensor:
        """See `Ranks`."""
        found = own.new_empty(sum(sizes), *own.shape[1:])
        parts = found.split(list(sizes))
        parts[self.rank].copy_(own)
        self._broadcast([(part, rank) for rank, part in enumerate(parts)])
        return found

    def select(self, own: Tensor, sizes: Sequence[int], choose: Callable[[Tensor], Tensor]) -> Tensor:
        """See `Ranks`."""
        whole = own.new_empty(sum(sizes) if self.rank == 0 else 0, *own.shape[1:])
        width = math.prod(own.shape[1:])
        self._to_first(own.contiguous(), whole, [size * width * own.itemsize for size in sizes])
        marks = choose(whole).contiguous() if self.rank == 0 else torch.empty(0, dtype=torch.bool)
        marked = torch.empty(own.shape, dtype=torch.bool)
        self._from_first(marks, marked, [size * width for size in sizes])
        return marked

    def total(self, parts: Sequence[Tensor], zeros: Callable[[], Tensor]) -> Tensor:
        """See `Ranks`."""
        counts = self._sizes(len(parts))
        found = super().total(parts, zeros) if self.rank == 0 else zeros()
        arrived = zeros() if self.rank == 0 and any(counts[1:]) else found[:0]
        for rank in range(1, self.count):
            for number in range(counts[rank]):
                sizes = [found.nbytes if each == rank else 0 for each in range(self.count)]
                self._to_first(parts[number] if self.rank == rank else found[:0], arrived, sizes)
                if self.rank == 0:
                    found.add_(arrived)
        self._broadcast([(found, 0)])
        return found

    def everywhere(
        self, own: Sequence[Tensor], owners: Sequence[int], empty: Callable[[int], Tensor]
    ) -> Iterator[Tensor]:
        """See `Ranks`."""
        given = iter(own)
        for position, owner in enumerate(owners):
            found = next(given).contiguous() if owner == self.rank else empty(position)
            self._broadcast([(found, owner)])
            yield found

    def reader(self, reader: TensorReader) -> SharedReader:
        """See `Ranks`."""
        return SharedReader(reader, self)

    @property
    def reads_ahead(self) -> bool:
        """Whether this is not the thread that runs the pass, but the one that reads beside it; there is one at a time.

        What either does, it does in one order on all ranks; not so what the two do one after the other.
        """
        return threading.get_ident() != self._thread

    def exchange_read(self, parts: Iterable[tuple[Tensor, int]]) -> None:
        """Give each tensor, which was read by the rank beside it, to all ranks."""
        self._broadcast(parts, self._reading if self.reads_ahead else self._group)

    def write(self, number: int, write: Callable[[], WrittenFile]) -> WrittenFile:
        """See `Ranks`."""
        path = self._folder / f"written-{self._passes}-{number}"
        if self.writes(number):
            written = write()
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(asdict(written)), encoding="utf-8")
            partial.replace(path)
            return written
        began = time.monotonic()
        while not path.exists():
            self._look(time.monotonic() - began)
            time.sleep(_POLL_FILE_SECONDS)
        return WrittenFile(**json.loads(path.read_text(encoding="utf-8")))

    def _to_first(self, own: Tensor, whole: Tensor, sizes: Sequence[int]) -> None:
        """Send tensors of so many bytes each to the first rank, which gets them one after the other."""
        there = [sizes[self.rank], *[0] * (self.count - 1)]
        arriving = list(sizes) if self.rank == 0 else [0] * self.count
        self._all_to_all(own, whole, there, arriving)

    def _from_first(self, whole: Tensor, own: Tensor, sizes: Sequence[int]) -> None:
        """The way back."""
        leaving = list(sizes) if self.rank == 0 else [0] * self.count
        self._all_to_all(whole, own, leaving, [sizes[self.rank], *[0] * (self.count - 1)])

    def _all_to_all(self, sent: Tensor, received: Tensor, leaving: list[int], arriving: list[int]) -> None:
        work = dist.all_to_all_single(
            _bytes_of(received), _bytes_of(sent), arriving, leaving, group=self._group, async_op=True
        )
        self._wait([work])

    def _sizes(self, own: int) -> list[int]:
        found = torch.zeros(self.count, dtype=torch.long)
        found[self.rank] = own
        self._broadcast([(part, rank) for rank, part in enumerate(found.split(1))])
        return found.tolist()

    def _broadcast(self, parts: Iterable[tuple[Tensor, int]], group: dist.ProcessGroup | None = None) -> None:
        works = [
            dist.broadcast(_bytes_of(part), rank, group=group or self._group, async_op=True)
            for part, rank in parts
            if part.numel()
        ]
        self._wait(works)

    def _wait(self, works: Sequence[dist.Work]) -> None:
        began = time.monotonic()
        for work in works:
            while not _is_done(work, self._loss):
                self._look(time.monotonic() - began)


class LostRankError(Exception):
    """Another process is gone."""


def _is_done(work: dist.Work, loss: Callable[[Exception], Exception]) -> bool:
    """Wait a while for an exchange; False if it is not over by then."""
    with contextlib.suppress(RuntimeError):  # the time is over, or so is the exchange, well or not
        work.wait(_POLL)
    if not work.is_completed():
        return False
    try:
        work.wait(_POLL)
    except RuntimeError as error:
        raise loss(error) from error
    return True


class SharedReader:
    """Reads the tensors of a checkpoint together: each rank a part of the bytes, which all of them get.

    Args:
        reader: reads the parts; on the first rank it gets the digests of whole tensors.
        ranks: all ranks.
    """

    def __init__(self, reader: TensorReader, ranks: ProcessRanks) -> None:
        self._reader = reader
        self._ranks = ranks
        # Bytes of small tensors that each rank was given, by `ProcessRanks.reads_ahead`.
        self._given = {ahead: [0] * ranks.count for ahead in (False, True)}

    def read(self, info: TensorInfo) -> Tensor:
        """One tensor as it is stored."""
        raw = torch.empty(info.size_bytes, dtype=torch.uint8)
        bounds = self._bounds(info.size_bytes)
        start, stop = bounds[self._ranks.rank], bounds[self._ranks.rank + 1]
        if start < stop:
            self._reader.read_into(info, start, memory_of(raw)[start:stop])
            self._ranks.bytes_read += stop - start
        self._exchange(raw, bounds)
        if self._ranks.rank == 0:
            self._reader.remember(info, raw)
        return raw.view(DTYPES[info.dtype]).reshape(info.shape)

    def read_rows(self, info: TensorInfo, start: int, stop: int) -> Tensor:
        """Rows [start, stop) of a tensor."""
        return self._rows(
            info, stop - start, lambda first, last: self._reader.read_rows(info, start + first, start + last)
        )

    def gather_rows(self, info: TensorInfo, rows: list[int]) -> Tensor:
        """The given rows of a tensor, in that order."""
        return self._rows(info, len(rows), lambda first, last: self._reader.gather_rows(info, rows[first:last]))

    def copy(self, info: TensorInfo) -> OutputTensor:
        """One tensor for writing, read by this rank alone."""
        return self._reader.copy(info)

    def _rows(self, info: TensorInfo, count: int, read: Callable[[int, int], Tensor]) -> Tensor:
        bounds = self._even(count)
        found = torch.empty(count, *info.shape[1:], dtype=DTYPES[info.dtype])
        start, stop = bounds[self._ranks.rank], bounds[self._ranks.rank + 1]
        if start < stop:
            found[start:stop] = read(start, stop)
            self._ranks.bytes_read += found[start:stop].nbytes
        self._exchange(found, bounds)
        return found

    def _bounds(self, size: int) -> list[int]:
        """Where the part of each rank begins, and the last ends."""
        if size >= _DIVIDED_BYTES:
            return self._even(size)
        given = self._given[self._ranks.reads_ahead]
        owner = given.index(min(given))
        given[owner] += size
        return [0] * (owner + 1) + [size] * (self._ranks.count - owner)

    def _even(self, size: int) -> list[int]:
        return [size * rank // self._ranks.count for rank in range(self._ranks.count + 1)]

    def _exchange(self, whole: Tensor, bounds: Sequence[int]) -> None:
        parts = [(whole[start:stop], rank) for rank, (start, stop) in enumerate(itertools.pairwise(bounds))]
        self._ranks.exchange_read(parts)


def _bytes_of(tensor: Tensor) -> Tensor:
    """The bytes of a contiguous tensor, to be sent or overwritten: not every type can be sent."""
    if not tensor.is_contiguous():
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} that is not contiguous cannot be exchanged in place")
    return tensor.view(-1).view(torch.uint8)
