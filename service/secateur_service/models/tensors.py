"""Tensors between safetensors files and torch, read into our own memory.

Files are read, not mapped: mapped pages of a large checkpoint would accumulate in the process. The digest of every
tensor that was read whole is kept, so that a pass over a model can identify it without reading it twice.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import math
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from torch import Tensor

from secateur_service.models.safetensors import OutputTensor, TensorInfo
from secateur_service.pruning.elementwise import is_finite

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_COPY_BYTES = 16 << 20
# Read at once, so that it is hashed while in a processor's own cache.
_READ_BYTES = 1 << 20
_WRITE_BYTES = 4 << 20
# The C library maps memory of this size apart; in its heap, advice would outlive the tensor.
_MAPPED_BYTES = 32 << 20
_ORIGIN = ("_name_or_path", "transformers_version")


def open_here(path: Path) -> BinaryIO:
    """Open a file of a checkpoint that is entirely on this machine."""
    return path.open("rb", buffering=0)


class Reader(Protocol):
    """Reads tensors of a checkpoint; may be called from several threads."""

    def read(self, info: TensorInfo) -> Tensor:
        """One tensor."""

    def read_rows(self, info: TensorInfo, start: int, stop: int) -> Tensor:
        """Rows [start, stop) of a tensor."""

    def gather_rows(self, info: TensorInfo, rows: list[int]) -> Tensor:
        """The given rows of a tensor, in that order."""

    def copy(self, info: TensorInfo) -> OutputTensor:
        """One tensor for writing, in small pieces."""


class TensorReader:
    """Reads tensors from files and remembers their digests.

    Args:
        open_file: opens a file of the checkpoint, unbuffered; may be called from several threads.
        on_read: see below.

    Attributes:
        digests: SHA-256 of the bytes of every tensor that was read whole, by its name.
        on_read: called with the number of bytes after every piece read; may raise to stop.
        pinned: whether tensors are read whole into page-locked memory, from which an accelerator copies by itself.
        reads_here: whether its files are entirely on this machine, so that other processes can read them too.
    """

    def __init__(
        self, open_file: Callable[[Path], BinaryIO] = open_here, on_read: Callable[[int], None] = lambda _: None
    ) -> None:
        self._open = open_file
        self.reads_here = open_file is open_here
        self.on_read = on_read
        self.digests: dict[str, str] = {}
        self.pinned = False

    def read(self, info: TensorInfo) -> Tensor:
        """Read one tensor as it is stored."""
        raw = host_memory(info.size_bytes, pinned=self.pinned)
        view = memory_of(raw)
        with self._open(info.path) as file:
            file.seek(info.offset)
            digest = hashlib.sha256()
            for start in range(0, len(view), _READ_BYTES):
                piece = view[start : start + _READ_BYTES]
                _read_fully(file, piece, info)
                digest.update(piece)
                self.on_read(len(piece))
        self.digests[info.name] = digest.hexdigest()
        return raw.view(DTYPES[info.dtype]).reshape(info.shape)

    def read_into(self, info: TensorInfo, start: int, view: memoryview) -> None:
        """Read a tensor's bytes from position `start` on into memory."""
        with self._open(info.path) as file:
            file.seek(info.offset + start)
            for begin in range(0, len(view), _COPY_BYTES):
                piece = view[begin : begin + _COPY_BYTES]
                _read_fully(file, piece, info)
                self.on_read(len(piece))

    def remember(self, info: TensorInfo, raw: Tensor) -> None:
        """Remember the digest of a tensor whose bytes were read in parts."""
        self.digests[info.name] = hashlib.sha256(memory_of(raw)).hexdigest()

    def read_rows(self, info: TensorInfo, start: int, stop: int) -> Tensor:
        """Read rows [start, stop) of a tensor."""
        row_bytes = info.size_bytes // info.rows
        raw = torch.empty((stop - start) * row_bytes, dtype=torch.uint8)
        with self._open(info.path) as file:
            file.seek(info.offset + start * row_bytes)
            _read_fully(file, memory_of(raw), info)
        self.on_read(len(raw))
        return raw.view(DTYPES[info.dtype]).reshape(stop - start, *info.shape[1:])

    def gather_rows(self, info: TensorInfo, rows: list[int]) -> Tensor:
        """Read the given rows of a tensor, in that order, without reading the others."""
        row_bytes = info.size_bytes // info.rows
        raw = torch.empty(len(rows) * row_bytes, dtype=torch.uint8)
        view = memory_of(raw)
        with self._open(info.path) as file:
            for begin, end in _runs(rows):
                file.seek(info.offset + rows[begin] * row_bytes)
                _read_fully(file, view[begin * row_bytes : end * row_bytes], info)
        self.on_read(len(raw))
        return raw.view(DTYPES[info.dtype]).reshape(len(rows), *info.shape[1:])

    def check_finite(self, info: TensorInfo) -> None:
        """Read one tensor piece by piece and check its values.

        Raises:
            FloatingPointError: it holds values that are not finite; the message names it and counts them.
        """
        count, rest = 0, b""
        for chunk in self._stream(info):
            whole, rest = _divide(rest + chunk, DTYPES[info.dtype].itemsize)
            count += count_non_finite(whole, info.dtype)
        refuse_non_finite(info.name, info.shape, count)

    def copy(self, info: TensorInfo) -> OutputTensor:
        """The tensor for writing, streamed from its file in small pieces."""
        return OutputTensor(info.name, info.dtype, info.shape, self._stream(info))

    def _stream(self, info: TensorInfo) -> Iterator[bytes]:
        digest = hashlib.sha256()
        with self._open(info.path) as file:
            file.seek(info.offset)
            left = info.size_bytes
            while left:
                chunk = file.read(min(left, _COPY_BYTES))
                if not chunk:
                    raise EOFError(f"{info.path.name} ended within tensor {info.name}")
                digest.update(chunk)
                left -= len(chunk)
                self.on_read(len(chunk))
                yield chunk
        self.digests[info.name] = digest.hexdigest()

    def model_digest(self, config: Mapping[str, Any], tensors: Iterable[TensorInfo]) -> str:
        """SHA-256 over the configuration and the tensors of a checkpoint, however they are divided into files.

        Args:
            config: the configuration; where the model came from, and what wrote it, do not count.
            tensors: all tensors; those that have not been read whole are read now.
        """
        for info in tensors:
            if info.name not in self.digests:
                for _ in self._stream(info):
                    pass
        counted = {key: value for key, value in config.items() if key not in _ORIGIN}
        digest = hashlib.sha256(f"{json.dumps(counted, sort_keys=True)}\n".encode())
        for name in sorted(self.digests):
            digest.update(f"{name}|{self.digests[name]}\n".encode())
        return digest.hexdigest()


def _runs(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Positions [begin, end) of consecutive rows."""
    begin = 0
    for position in range(1, len(rows) + 1):
        if position == len(rows) or rows[position] != rows[position - 1] + 1:
            yield begin, position
            begin = position


def _divide(content: bytes, size: int) -> tuple[bytes, bytes]:
    """Split off the longest prefix that is a multiple of `size`: a file may be read in pieces of any length."""
    end = len(content) - len(content) % size
    return content[:end], content[end:]


def count_non_finite(values: Tensor | bytes, dtype: str = "") -> int:
    """How many values of a tensor, or of the raw bytes of one of type `dtype`, are infinite or NaN."""
    if isinstance(values, bytes):
        if not values:
            return 0
        values = torch.frombuffer(bytearray(values), dtype=DTYPES[dtype])
    return 0 if is_finite(values) else int(values.numel() - values.isfinite().sum())


class NonFiniteError(FloatingPointError):
    """A tensor of a checkpoint holds values that are not finite; the message names it."""


def refuse_non_finite(name: str, shape: Sequence[int], count: int) -> None:
    """Return normally if `count` is 0.

    Raises:
        NonFiniteError: `count` values of a tensor are not finite.
    """
    if count:
        raise NonFiniteError(
            f"{name} holds {count} values that are not finite, of {math.prod(shape)}; such values are never "
            "published, use a model without them"
        )


def output_tensor(name: str, tensor: Tensor, arrived: Callable[[], None] = lambda: None) -> OutputTensor:
    """A tensor on the host, for writing; not copied if it is contiguous.

    Its values are checked as they are written, which raises FloatingPointError if some are not finite; the message
    names the tensor and counts them.

    Args:
        name: in the file.
        tensor: the values.
        arrived: returns once they are there, where they are still being copied from a device.
    """
    host = tensor.detach().cpu().contiguous()
    return OutputTensor(name, _NAMES[tensor.dtype], tuple(tensor.shape), _checked(name, host, arrived))


def _checked(name: str, host: Tensor, arrived: Callable[[], None]) -> Iterator[memoryview]:
    arrived()
    for piece in host.reshape(-1).split(_WRITE_BYTES // host.itemsize):
        if not is_finite(piece):
            refuse_non_finite(name, host.shape, count_non_finite(host))
        yield memory_of(piece)


def host_memory(size_bytes: int, *, pinned: bool = False) -> Tensor:
    """Memory for a tensor's bytes; page-locked ones are PyTorch's to reuse, and take an accelerator.

    Clearing fresh memory page by page takes as long as reading a file into it, so large pieces ask for large pages.
    """
    memory = torch.empty(size_bytes, dtype=torch.uint8, pin_memory=pinned)
    madvise = _madvise()
    if not pinned and madvise is not None and size_bytes > _MAPPED_BYTES:
        begin = -(-memory.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        madvise(begin, memory.data_ptr() + size_bytes - begin, mmap.MADV_HUGEPAGE)  # only advice: failure is harmless
    return memory


@functools.cache
def _madvise() -> Callable[[int, int, int], int] | None:
    """The system call, where there are large pages to ask for."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function


def memory_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the host."""
    if not tensor.numel():
        return memoryview(b"")
    flat = tensor.as_strided((tensor.numel(),), (1,))  # the stride of a single value may be anything
    return memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type] # typed since 3.12


def _read_fully(file: BinaryIO, view: memoryview, info: TensorInfo) -> None:
    while view:
        count = file.readinto(view)  # type: ignore[attr-defined] # raw files have it
        if not count:
            raise EOFError(f"{Path(info.path).name} ended within tensor {info.name}")
        view = view[count:]
