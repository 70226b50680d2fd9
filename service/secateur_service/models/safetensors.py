"""The safetensors format, read one tensor at a time and written as a stream.

Follows https://github.com/huggingface/safetensors (format section of its README): eight bytes of little-endian header
length, a JSON header, then the tensors' bytes without gaps or overlaps. The library maps whole files; reading into our
own buffers keeps the memory of a pass at one block. Writing the file ourselves yields the content's digest without
reading it again, and a header whose bytes do not depend on a hash seed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from secateur_service.bounded import JsonLimits, parse_json
from secateur_service.durable import sync

# Bytes per element of the types that a prunable checkpoint may hold.
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
# The prefix of every published shard: mlx-lm and llama.cpp's converters look for `model*.safetensors`.
SHARD_PREFIX = "model-"
MAX_HEADER_BYTES = 32 << 20
"""Per file, and per checkpoint: 280 bytes for each of the tensors below."""
MAX_TENSORS = 120_000
"""Per file, and per checkpoint. The largest published one, DeepSeek-V3, has 92,000 in 163 files."""
MAX_RANK = 16
MAX_NAME_CHARACTERS = 1024
_LARGEST = 2**63 - 1
# Ten values per tensor: an object of three, with two lists of two.
_HEADER_LIMITS = JsonLimits(MAX_HEADER_BYTES, values=10 * MAX_TENSORS, depth=8)


class MalformedCheckpointError(ValueError):
    """The file is not a well-formed safetensors file; the message says where."""


class UnsupportedTypeError(MalformedCheckpointError):
    """A tensor's element type is not supported; the message names it and the remedy."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor's bytes are.

    Attributes:
        offset: position of the first byte in the file.
        size_bytes: number of bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    size_bytes: int

    @property
    def rows(self) -> int:
        """Size of the first dimension; a single number is one row."""
        return self.shape[0] if self.shape else 1


def header_bytes(path: Path) -> int:
    """The length of a file's header, without the eight bytes that state it.

    Raises:
        MalformedCheckpointError: longer than the file, or than the limit.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
    if len(prefix) < 8:
        raise MalformedCheckpointError(f"{path.name} is too short to be a safetensors file")
    length = int.from_bytes(prefix, "little")
    if length > min(MAX_HEADER_BYTES, size - 8):
        raise MalformedCheckpointError(
            f"{path.name} claims a header of {length} bytes; the file has {size}, and at most {MAX_HEADER_BYTES} are "
            "read"
        )
    return length


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Read and verify a file's header; no tensor is touched.

    Raises:
        MalformedCheckpointError: truncated, oversized, overlapping or otherwise inconsistent.
        UnsupportedTypeError: a tensor's elements are quantised, or of another type that is not supported.
    """
    size = path.stat().st_size
    length = header_bytes(path)
    with path.open("rb") as file:
        file.seek(8)
        raw = file.read(length)
    try:
        entries = parse_json(raw, _HEADER_LIMITS)
        entries.pop("__metadata__", None)
        infos = [_tensor_info(path, 8 + length, name, entry) for name, entry in entries.items()]
    except UnsupportedTypeError:
        raise
    except (ValueError, TypeError, AttributeError) as error:
        raise MalformedCheckpointError(f"{path.name} has a malformed header: {error}") from error
    if len(infos) > MAX_TENSORS:
        raise MalformedCheckpointError(f"{path.name} has {len(infos)} tensors; at most {MAX_TENSORS} are read")
    end = 8 + length
    for info in sorted(infos, key=lambda info: info.offset):
        if info.offset != end:
            raise MalformedCheckpointError(f"{path.name}: tensor {info.name} leaves a gap or overlaps another")
        end += info.size_bytes
    if end != size:
        raise MalformedCheckpointError(f"{path.name} has {size} bytes where its header describes {end}")
    return {info.name: info for info in infos}


def _tensor_info(path: Path, start: int, name: str, entry: Mapping[str, Any]) -> TensorInfo:
    """Verify one entry; every length is bounded before it is multiplied by another."""
    if len(name) > MAX_NAME_CHARACTERS:
        raise ValueError(f"a tensor has a name of {len(name)} characters; at most {MAX_NAME_CHARACTERS}")
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"tensor {name} has no dtype, shape or data_offsets as the format has them") from error
    if len(shape) > MAX_RANK:
        raise ValueError(f"tensor {name} has {len(shape)} dimensions; at most {MAX_RANK}")
    if not all(type(number) is int and 0 <= number <= _LARGEST for number in (*shape, begin, end)):
        raise ValueError(f"tensor {name} has a negative, fractional or absurd size")
    if dtype not in DTYPE_BYTES:
        known = ", ".join(DTYPE_BYTES)
        raise UnsupportedTypeError(
            f"{path.name}: element type {str(dtype)[:20]!r} of tensor {name[:200]} is not supported ({known} are); "
            "dequantise the model to BF16, F16 or F32 first"
        )
    if end - begin != math.prod(shape) * DTYPE_BYTES[dtype]:
        raise ValueError(f"tensor {name} has {end - begin} bytes, which is not what its shape needs")
    return TensorInfo(name, sys.intern(dtype), tuple(shape), path, start + begin, end - begin)


@dataclass(frozen=True)
class OutputTensor:
    """A tensor to write: `chunks` yields its bytes in order, in pieces of any size."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunks: Iterable[memoryview | bytes]


@dataclass(frozen=True)
class WrittenFile:
    """A file that is durable under its final name."""

    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class FilledShard:
    """A file that is complete, but neither durable nor under its final name."""

    partial: Path
    name: str
    sha256: str
    size_bytes: int

    def publish(self) -> WrittenFile:
        """Make the file durable, then give it its name.

        Raises:
            OSError: the disk is full or fails; the file is removed.
        """
        try:
            sync(self.partial)
            self.partial.replace(self.partial.with_name(self.name))
            sync(self.partial.parent)
        finally:
            self.partial.unlink(missing_ok=True)
        return WrittenFile(self.name, self.sha256, self.size_bytes)


Aside = Callable[[Callable[[memoryview | bytes], None], memoryview | bytes], "Future[None]"]
"""Starts a call in another thread."""


def write_shard(folder: Path, stem: str, tensors: list[OutputTensor]) -> WrittenFile:
    """Write tensors to `model-{stem}-{digest}.safetensors`; the name appears only once the file is complete on disk.

    Raises:
        OSError: the disk is full or fails; the partial file is removed.
    """
    return fill_shard(folder, stem, tensors).publish()


def fill_shard(folder: Path, stem: str, tensors: list[OutputTensor], aside: Aside | None = None) -> FilledShard:
    """Do all of `write_shard` but for waiting for the disk. Each piece is hashed while another thread writes it.

    Args:
        folder: of the file.
        stem: see `write_shard`.
        tensors: what to write.
        aside: writes; by default a thread of its own.

    Raises:
        OSError: the disk is full or fails; the partial file is removed.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in tensors:
        size = math.prod(tensor.shape) * DTYPE_BYTES[tensor.dtype]
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [position, position + size],
        }
        position += size
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % 8)  # so that the data starts aligned
    digest = hashlib.sha256()
    partial = folder / f"{stem}.partial"
    with contextlib.ExitStack() as failed:
        failed.callback(partial.unlink, missing_ok=True)
        with partial.open("wb", buffering=0) as file, contextlib.ExitStack() as stack:
            aside = aside or stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="shard")).submit
            written = 0
            for chunk in _chunks(encoded, tensors):
                writing = aside(functools.partial(_write_fully, file), chunk)
                digest.update(chunk)
                writing.result()
                written += len(chunk)
            if written != 8 + len(encoded) + position:
                raise ValueError(f"{stem}: wrote {written} bytes where the shapes need {8 + len(encoded) + position}")
        failed.pop_all()
    name = f"{SHARD_PREFIX}{stem}-{digest.hexdigest()[:16]}.safetensors"
    return FilledShard(partial, name, digest.hexdigest(), written)


def _write_fully(file: BinaryIO, piece: memoryview | bytes) -> None:
    left = memoryview(piece)
    while left:
        left = left[file.write(left) :]


def _chunks(header: bytes, tensors: list[OutputTensor]) -> Iterable[memoryview | bytes]:
    yield len(header).to_bytes(8, "little")
    yield header
    for tensor in tensors:
        yield from tensor.chunks
