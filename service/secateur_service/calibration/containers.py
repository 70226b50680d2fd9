"""Files with rows of text: lines, JSON lines, tables; plain or compressed. `documents` defines what a document is.

Files are streamed, a piece at a time: a line of text may have any length. A line of JSON and a value of a table are
read whole, and so have a limit.

Does not import torch.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from secateur_service.bounded import JsonLimits, UnreadableJsonError, check_json, problem_of
from secateur_service.calibration.documents import AROUND, CorpusRefusedError, Reading, Row

KINDS = (".txt", ".jsonl", ".parquet")
COMPRESSIONS = (".gz", ".zst")
ARCHIVES = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".7z", ".rar", ".bz2", ".xz", ".lz4", ".br", ".Z")
"""Endings of archives, which may contain text but have to be unpacked first."""
MAX_VALUE_BYTES = 64 << 20
"""For a line of JSON and a value of a table, which are read whole; lines of text have no limit."""
_ROW_LIMITS = JsonLimits(MAX_VALUE_BYTES, values=1_000_000)
_PIECE_BYTES = 1 << 16
_TABLE_ROWS = 64
_TABLE_BUFFER_BYTES = 1 << 20
_MAX_WINDOW_BYTES = 1 << 27
# A few bytes may decompress to a block of 128 KiB: this many never yield more than 32 MiB.
_ZSTANDARD_BYTES = 1 << 10
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_NAMES = {bool: "true or false", int: "a number", float: "a number", dict: "an object", str: "a text", list: "a list"}


def kind_of(name: str) -> str | None:
    """The file name ending that decides how to read a file, ignoring compression; None if it is not read."""
    for compression in COMPRESSIONS:
        name = name.removesuffix(compression)
    return next((kind for kind in KINDS if name.endswith(kind)), None)


def is_archive(name: str) -> bool:
    """Whether a file has to be unpacked before it can be read."""
    for compression in COMPRESSIONS:
        name = name.removesuffix(compression)
    return name.endswith(ARCHIVES)


def rows_of(path: Path, text_field: str, reading: Reading) -> Iterator[Row]:
    """The rows of a file.

    Args:
        path: the file; its name determines its format.
        text_field: where JSON objects and tables have the text.
        reading: its `check` is called even while nothing is found.

    Raises:
        CorpusRefusedError: it cannot be read, or its content does not match its name.
    """
    kind = kind_of(path.name)
    if kind == ".parquet":
        return _table_rows(path, text_field, reading)
    return _json_rows(path, text_field, reading) if kind == ".jsonl" else _text_rows(path, reading)


def _text_rows(path: Path, reading: Reading) -> Iterator[Row]:
    with _open(path) as file:
        for number in itertools.count(1):
            line = file.readline(_PIECE_BYTES)
            if not line:
                return
            reading.look(len(line))
            place = f"{path.name}, line {number}"
            if number == 1:
                _check_encoding(path, line)
            if line.endswith(b"\n") or len(line) < _PIECE_BYTES:
                text = _decoded(line, place)
                if text.strip(AROUND):
                    yield Row(place, text)
            else:
                pieces = _pieces(_rest_of_line(file, line), place, reading)
                yield Row(place, pieces)
                for _ in pieces:  # consume what the caller did not read before the next line
                    pass


def _rest_of_line(file: IO[bytes], first: bytes) -> Iterator[bytes]:
    """All pieces of a line whose first piece has been read."""
    raw = first
    while raw:
        yield raw
        raw = b"" if raw.endswith(b"\n") else file.readline(_PIECE_BYTES)


def _pieces(raws: Iterable[bytes], place: str, reading: Reading) -> Iterator[str]:
    """A long text, decoded piece by piece."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for raw in raws:
            reading.look(len(raw))
            yield decoder.decode(raw)
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise _not_utf8(place) from error


def _json_rows(path: Path, text_field: str, reading: Reading) -> Iterator[Row]:
    with _open(path) as file:
        for number in itertools.count(1):
            line = file.readline(MAX_VALUE_BYTES + 1)
            if not line:
                return
            reading.look(len(line))
            place = f"{path.name}, line {number}"
            if number == 1:
                _check_encoding(path, line)
            if len(line) > MAX_VALUE_BYTES:
                raise _too_long(place)
            try:
                check_json(line, _ROW_LIMITS)
            except UnreadableJsonError as error:
                raise CorpusRefusedError(f"{place}: {error}") from error
            text = _decoded(line, place).strip(AROUND)
            if text:
                yield _json_row(text, text_field, place)


def _json_row(line: str, text_field: str, place: str) -> Row:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorpusRefusedError(f"{place}: not JSON: {problem_of(error)}") from error
    if not isinstance(entry, dict):
        return Row(place, None, f"not a JSON object but {_name(entry)}")
    content = entry.get(text_field)
    if isinstance(content, str | list):
        return Row(place, content, fields=tuple(_text_fields(entry)))
    fields = tuple(_text_fields(entry))
    found = f"{text_field!r} is {_name(content)}" if text_field in entry else f"there is no {text_field!r}"
    return Row(place, None, found, fields)


def _text_fields(entry: dict[str, Any]) -> Iterator[str]:
    return (name for name, value in entry.items() if isinstance(value, str) and value.strip())


def _name(value: object) -> str:
    return "null" if value is None else _NAMES[type(value)]


def _table_rows(path: Path, text_field: str, reading: Reading) -> Iterator[Row]:
    import pyarrow as pa  # type: ignore[import-untyped]
    from pyarrow import parquet

    try:
        # Read through a buffer: a row group may be larger than memory.
        with parquet.ParquetFile(path, buffer_size=_TABLE_BUFFER_BYTES) as table:
            schema = table.schema_arrow
            texts = tuple(name for name, kind in zip(schema.names, schema.types, strict=True) if _is_text(pa, kind))
            count = schema.names.count(text_field)
            if count > 1:
                raise CorpusRefusedError(f"{path.name} has {count} columns {text_field!r}; give one another name")
            kind = schema.field(text_field).type if count else None
            if kind is not None and _is_nested(pa, kind):
                there = f"there is text in {', '.join(texts)}" if texts else "no column holds text"
                raise CorpusRefusedError(
                    f"{path.name}: {text_field!r} holds {kind}, which is not text; {there}; set text_field, or store "
                    "the text in a column of its own"
                )
            if kind is None or not (_is_text(pa, kind) or _is_list(pa, kind) or pa.types.is_null(kind)):
                found = f"there is no {text_field!r}" if kind is None else f"{text_field!r} is {kind}"
                for number in range(1, table.metadata.num_rows + 1):
                    reading.look()
                    yield Row(f"{path.name}, row {number}", None, found, texts)
                return
            _check_sizes(path, table.metadata, text_field)
            number = 0
            for batch in table.iter_batches(batch_size=_TABLE_ROWS, columns=[text_field]):
                column = batch.column(batch.schema.get_field_index(text_field))
                is_text = _is_text(pa, kind)
                for value in column.cast(pa.large_binary()) if is_text else column:
                    number += 1
                    reading.look()
                    place = f"{path.name}, row {number}"
                    if not value.is_valid:
                        yield Row(place, None, f"{text_field!r} is null", texts)
                    else:
                        content = _value(value.as_buffer(), place, reading) if is_text else value.as_py()
                        yield Row(place, content, fields=texts)
    except (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError) as error:
        raise CorpusRefusedError(f"{path.name} cannot be read: {error}; store it again") from error


def _check_sizes(path: Path, metadata: Any, text_field: str) -> None:
    """Refuse values that are certainly too long before reading them."""
    for group in (metadata.row_group(number) for number in range(metadata.num_row_groups)):
        for column in (group.column(number) for number in range(group.num_columns)):
            if (
                column.path_in_schema == text_field
                and column.total_uncompressed_size > MAX_VALUE_BYTES * group.num_rows
            ):
                raise _too_long(f"{path.name}, {text_field!r}")


def _value(raw: Any, place: str, reading: Reading) -> str | Iterator[str]:
    """A text of a table; a long one in pieces, because one copy is already in memory."""
    view = memoryview(raw)
    if len(view) > MAX_VALUE_BYTES:
        raise _too_long(place)
    if len(view) <= _PIECE_BYTES:
        return _decoded(bytes(view), place)
    starts = range(0, len(view), _PIECE_BYTES)
    return _pieces((bytes(view[at : at + _PIECE_BYTES]) for at in starts), place, reading)


def _is_text(pa: Any, kind: Any) -> bool:
    kind = _plain_type(pa, kind)
    types = pa.types
    texts = (types.is_string, types.is_large_string, types.is_string_view)
    binaries = (types.is_binary, types.is_large_binary, types.is_binary_view)
    return any(is_one(kind) for is_one in (*texts, *binaries))


def _is_list(pa: Any, kind: Any) -> bool:
    """Whether the type is a list, as conversations are."""
    types = pa.types
    checks = (types.is_list, types.is_large_list, types.is_list_view, types.is_large_list_view)
    return any(is_one(kind) for is_one in checks)


def _is_nested(pa: Any, kind: Any) -> bool:
    return bool(pa.types.is_nested(_plain_type(pa, kind))) and not _is_list(pa, kind)


def _plain_type(pa: Any, kind: Any) -> Any:
    """The type of the values themselves, without extension or dictionary."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _check_encoding(path: Path, beginning: bytes) -> None:
    """Refuse other encodings, which would be misread, or fail as one long line that is not UTF-8."""
    if beginning.startswith(_UTF_16) or _has_wide_characters(beginning[:8]):
        raise CorpusRefusedError(f"{path.name} is UTF-16 or UTF-32; convert it to UTF-8 (iconv -t UTF-8)")
    if b"\0" in beginning[:4]:
        raise CorpusRefusedError(
            f"{path.name} has zero bytes at its beginning, so it is no text; check that it is the right file"
        )


def _has_wide_characters(beginning: bytes) -> bool:
    """Whether zero bytes follow the pattern of Latin text in UTF-16 or UTF-32, and occur nowhere else."""
    zeros = [byte == 0 for byte in beginning]
    patterns = ((1, 0), (0, 1), (1, 1, 1, 0), (0, 1, 1, 1))
    return len(zeros) > 1 and any(
        zeros == [bool(pattern[at % len(pattern)]) for at in range(len(zeros))] for pattern in patterns
    )


def _decoded(raw: bytes, place: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(place) from error


def _too_long(place: str) -> CorpusRefusedError:
    return CorpusRefusedError(
        f"{place}: more than {MAX_VALUE_BYTES >> 20} MiB; put one document into a row, or such a text into a .txt "
        "file, where it may have any length"
    )


def _not_utf8(place: str) -> CorpusRefusedError:
    return CorpusRefusedError(f"{place}: not UTF-8; convert the file (iconv -t UTF-8)")


@contextlib.contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    """The content of a file, decompressed."""
    try:
        with path.open("rb") as file:
            if path.name.endswith(".gz"):
                yield cast("IO[bytes]", gzip.GzipFile(fileobj=file))
            elif path.name.endswith(".zst"):
                yield io.BufferedReader(_Frames(file))
            else:
                yield file
    except (OSError, EOFError, zlib.error) as error:
        raise CorpusRefusedError(f"{path.name} cannot be read: {error}; store it again") from error


class _Frames(io.RawIOBase):
    """Zstandard frames, one after another. The library's own reader does not detect a truncated file."""

    def __init__(self, file: IO[bytes]) -> None:
        import zstandard

        self._file = file
        self._refused = zstandard.ZstdError
        # Frames with a larger window than tools write by default would allocate memory for it.
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
        self._frame: Any = None
        self._plain = memoryview(b"")

    def readable(self) -> bool:
        """Always true."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Decompress a little more."""
        while not self._plain:
            raw = self._file.read(_ZSTANDARD_BYTES)
            if not raw:
                if self._frame is not None:
                    raise OSError("it ends in the middle of a frame")
                return 0
            self._plain = memoryview(self._decompress(raw))
        count = min(len(buffer), len(self._plain))
        buffer[:count], self._plain = self._plain[:count], self._plain[count:]
        return count

    def _decompress(self, raw: bytes) -> bytes:
        plain = b""
        while raw:
            self._frame = self._frame or self._decompressor.decompressobj()
            try:
                plain += self._frame.decompress(raw)
            except self._refused as error:
                raise OSError(str(error)) from error
            raw = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = None
        return plain
