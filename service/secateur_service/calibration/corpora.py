"""Corpora: a folder with text for each language, read a document at a time.

A language's text is a file `{language}.txt` (UTF-8, one document a line), `{language}.jsonl` (one JSON object a line)
or `{language}.parquet`, the former two also as `.gz` or `.zst`; or a folder `{language}/` of such files by any names.

Does not import torch: the API uses it to refuse a corpus without a language at once.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

KINDS = (".txt", ".jsonl", ".parquet")
COMPRESSIONS = (".gz", ".zst")
DEFAULT_TEXT_FIELD = "text"
# A line without an end would fill the memory; nobody's document is so long.
MAX_DOCUMENT_BYTES = 64 << 20
_PARQUET_ROWS = 64
_MAX_WINDOW_BYTES = 1 << 27
# A few bytes may stand for a block of 128 KiB: so many never stand for more than 32 MiB.
_ZSTANDARD_BYTES = 1 << 10
_INSTALL = "pip install 'secateur[corpora]'"


class CorpusRefusedError(ValueError):
    """The corpus does not have what is asked of it; the message says what it has."""


def corpus_files(names: Collection[str], languages: Collection[str] | None = None) -> list[str]:
    """Those files of a folder, by their paths in it, that hold text of these languages; of any where none are given."""
    return [
        name
        for name in names
        if (found := _language_of(PurePosixPath(name))) and (languages is None or found in languages)
    ]


@dataclass(frozen=True)
class Corpus:
    """A folder of text files.

    Attributes:
        text_field: where JSON objects and parquet tables have the text.
    """

    folder: Path
    text_field: str = DEFAULT_TEXT_FIELD

    def languages(self) -> list[str]:
        """The languages that the folder has text in."""
        return sorted({language for path in self._all() if (language := _language_of(path.relative_to(self.folder)))})

    def files(self, language: str) -> list[Path]:
        """The files of one language, in the order of their names.

        Raises:
            CorpusRefusedError: there is none, or all are empty, or one is a link out of the folder.
        """
        root = self.folder.resolve()
        found = [path for path in self._all() if _language_of(path.relative_to(self.folder)) == language]
        if not found or not all(path.resolve().is_relative_to(root) for path in found):
            known = ", ".join(self.languages()) or "none"
            raise CorpusRefusedError(
                f"has no file {language}.txt, {language}.jsonl or {language}.parquet, and no folder {language} of such "
                f"files; it has text in: {known}"
            )
        if not any(path.stat().st_size for path in found):
            raise CorpusRefusedError(f"has nothing in {found[0].name}, it is empty; put one document a line into it")
        return found

    def documents(self, language: str) -> Iterator[str]:
        """The documents of one language; those without text are none.

        Raises:
            CorpusRefusedError: no such language, or a file that cannot be read; the message says where and why.
        """
        for path in self.files(language):
            for document in self._read(path):
                stripped = document.strip()
                if stripped:
                    yield stripped

    def _all(self) -> Iterator[Path]:
        for path in sorted(self.folder.iterdir()):
            yield from (inner for inner in sorted(path.iterdir()) if inner.is_file()) if path.is_dir() else (path,)

    def _read(self, path: Path) -> Iterator[str]:
        kind = _kind(path.name)
        if kind == ".parquet":
            yield from _parquet_documents(path, self.text_field)
            return
        of_line: Callable[[str], str] = (lambda line: _text_of(line, self.text_field)) if kind == ".jsonl" else str
        for number, raw in enumerate(_lines(path), 1):
            try:
                yield of_line(raw.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise CorpusRefusedError(f"{path.name}, line {number}: not UTF-8; convert the file") from error
            except _LineError as error:
                raise CorpusRefusedError(f"{path.name}, line {number}: {error}") from error


class _LineError(ValueError):
    """A line is not what it should be."""


def _language_of(path: Path | PurePosixPath) -> str | None:
    """The language of a file by its path below the folder, None where it holds no text."""
    kind = _kind(path.name)
    if kind is None or path.name.startswith("."):
        return None
    if len(path.parts) == 1:
        return path.name[: path.name.index(kind)]
    return path.parts[0] if len(path.parts) == 2 else None


def _kind(name: str) -> str | None:
    """The ending that says how a file is to be read, without that of its compression."""
    for compression in COMPRESSIONS:
        name = name.removesuffix(compression)
    return next((kind for kind in KINDS if name.endswith(kind)), None)


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with _open(path) as file:
            while line := file.readline(MAX_DOCUMENT_BYTES + 1):
                if len(line) > MAX_DOCUMENT_BYTES:
                    raise CorpusRefusedError(
                        f"{path.name} has a line of more than {MAX_DOCUMENT_BYTES >> 20} MiB; put one document a line"
                    )
                yield line
    except (OSError, EOFError, zlib.error) as error:
        raise CorpusRefusedError(f"{path.name} cannot be read: {error}; store it again") from error


@contextlib.contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    """The content of a file, decompressed."""
    with path.open("rb") as file:
        if path.name.endswith(".gz"):
            yield cast("IO[bytes]", gzip.GzipFile(fileobj=file))
        elif path.name.endswith(".zst"):
            yield io.BufferedReader(_Frames(file))
        else:
            yield file


class _Frames(io.RawIOBase):
    """Zstandard frames, one after another. The library's own reader takes a file that was cut off for a whole one."""

    def __init__(self, file: IO[bytes]) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise CorpusRefusedError(f"{file.name} needs a library: {_INSTALL}") from error
        self._file = file
        self._refused = zstandard.ZstdError
        # Frames of a larger window than tools write by default would take the memory for it.
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
        self._frame: Any = None
        self._plain = b""

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Decompress a little more."""
        while not self._plain:
            raw = self._file.read(_ZSTANDARD_BYTES)
            if not raw:
                if self._frame is not None:
                    raise OSError("it ends in the middle of a frame")
                return 0
            self._plain = self._decompress(raw)
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


def _text_of(line: str, field: str) -> str:
    if not line.strip():
        return ""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _LineError(f"not JSON: {error}") from error
    if not isinstance(entry, dict):
        raise _LineError("not a JSON object")
    text = entry.get(field)
    if not isinstance(text, str):
        raise _LineError(f"no text in {field!r}; there are {', '.join(sorted(entry)[:20])}; set text_field")
    return text.encode("utf-8", "replace").decode()  # JSON can spell halves of characters


def _parquet_documents(path: Path, field: str) -> Iterator[str]:
    try:
        import pyarrow as pa  # type: ignore[import-untyped]
        from pyarrow import parquet
    except ImportError as error:
        raise CorpusRefusedError(f"{path.name} needs a library: {_INSTALL}") from error
    try:
        with parquet.ParquetFile(path) as table:
            columns = table.schema_arrow
            if field not in columns.names or not _is_text(pa.types, columns.field(field).type):
                there = ", ".join(columns.names[:20])
                raise CorpusRefusedError(f"{path.name} has no text in {field!r}; there are {there}; set text_field")
            for batch in table.iter_batches(batch_size=_PARQUET_ROWS, columns=[field]):
                yield from (text for text in batch.column(0).to_pylist() if text is not None)
    except (pa.ArrowException, OSError) as error:
        raise CorpusRefusedError(f"{path.name} cannot be read: {error}; store it again") from error


def _is_text(types: Any, kind: Any) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind))
