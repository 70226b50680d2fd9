"""Corpora: documents by language; and the users' own, a folder with text for each, read a document at a time.

A language's text in a folder is a file `{language}.txt` (UTF-8, one document a line), `{language}.jsonl` (one JSON
object a line) or `{language}.parquet`, the former two also as `.gz` or `.zst`; or a folder `{language}/` of such files
by any names.

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
from typing import IO, Any, Protocol, cast

KINDS = (".txt", ".jsonl", ".parquet")
COMPRESSIONS = (".gz", ".zst")
DEFAULT_TEXT_FIELD = "text"
Render = Callable[[Any], str]
"""Makes the text of a document out of what a corpus has in its place: a text or a conversation (a list of messages).

Raises ValueError where it cannot.
"""
# A line without an end would fill the memory; nobody's document is so long.
MAX_DOCUMENT_BYTES = 64 << 20
_PARQUET_ROWS = 64
_MAX_WINDOW_BYTES = 1 << 27
# A few bytes may stand for a block of 128 KiB: so many never stand for more than 32 MiB.
_ZSTANDARD_BYTES = 1 << 10


class CorpusRefusedError(ValueError):
    """The corpus does not have what is asked of it; the message says what it has."""


class Corpus(Protocol):
    """Documents by language."""

    @property
    def identity(self) -> str:
        """Corpora of one identity have the same documents."""

    @property
    def is_endless(self) -> bool:
        """Whether it is too large to be read to its end; then the seed says where the reading begins."""

    def documents(self, language: str, seed: int) -> Iterator[str]:
        """The documents of one language; those without text are none.

        Raises:
            CorpusRefusedError: no such language, or text that cannot be read; the message says where and why.
        """


def corpus_files(names: Collection[str], languages: Collection[str] | None = None) -> list[str]:
    """Those files of a folder, by their paths in it, that hold text of these languages; of any where none are given."""
    return [
        name
        for name in names
        if (found := _language_of(PurePosixPath(name))) and (languages is None or found in languages)
    ]


@dataclass(frozen=True)
class FolderCorpus:
    """A folder of text files.

    Attributes:
        text_field: where JSON objects and parquet tables have the text.
        render: makes the text of every document; None where documents are texts and taken as they are.
    """

    folder: Path
    text_field: str = DEFAULT_TEXT_FIELD
    render: Render | None = None
    is_endless = False

    @property
    def identity(self) -> str:
        """Where it lies."""
        return str(self.folder.resolve())

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

    def documents(self, language: str, seed: int = 0) -> Iterator[str]:  # noqa: ARG002 - all are read
        """The documents of one language in the order of the files; those without text are none.

        Raises:
            CorpusRefusedError: no such language, or a file that cannot be read; the message says where and why.
        """
        for path in self.files(language):
            in_table = _kind(path.name) == ".parquet"
            raws = _parquet_rows(path, self.text_field) if in_table else _lines(path)
            for number, raw in enumerate(raws, 1):
                try:
                    text = self._text(_kind(path.name), raw)
                except ValueError as error:
                    place = "row" if in_table else "line"
                    raise CorpusRefusedError(f"{path.name}, {place} {number}: {error}") from error
                if text.strip():
                    yield text

    def _all(self) -> Iterator[Path]:
        for path in sorted(self.folder.iterdir()):
            yield from (inner for inner in sorted(path.iterdir()) if inner.is_file()) if path.is_dir() else (path,)

    def _text(self, kind: str | None, raw: Any) -> str:
        """The text of a document; empty where there is none.

        Raises:
            ValueError: it is not what it should be.
        """
        content = raw
        if kind != ".parquet":
            content = _decoded(raw)
            if kind == ".jsonl":
                content = _content_of(content, self.text_field)
        if isinstance(content, str):
            content = content.strip().encode("utf-8", "replace").decode()  # JSON can spell halves of characters
        if not content:
            return ""
        if self.render is not None:
            return rendered(self.render, content)
        if not isinstance(content, str):
            raise ValueError("it is a conversation and no text; set chat_template, or another text_field")  # noqa: TRY004
        return content


class Rendered(str):
    """A text that a template was put around, with what begins and ends a text.

    Attributes:
        origin: what it was made of, which is the same document.
    """

    __slots__ = ("origin",)
    origin: str


def rendered(render: Render, content: Any) -> str:
    """What becomes of a text or a conversation.

    Raises:
        ValueError: as `render` does.
    """
    text = Rendered(render(content).encode("utf-8", "replace").decode())
    text.origin = content if isinstance(content, str) else str(text)
    return text


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
        import zstandard

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


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8; convert the file") from error


def _content_of(line: str, field: str) -> Any:
    """What a JSON object has in a field: a text or a list."""
    if not line.strip():
        return ""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(entry, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004
    content = entry.get(field)
    if not isinstance(content, str | list):
        raise ValueError(f"no text in {field!r}; there are {', '.join(sorted(entry)[:20])}; set text_field")  # noqa: TRY004
    return content


def _parquet_rows(path: Path, field: str) -> Iterator[Any]:
    """What a table has in a column: texts, or lists."""
    import pyarrow as pa  # type: ignore[import-untyped]
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as table:
            columns = table.schema_arrow
            if field not in columns.names or not _holds_text(pa.types, columns.field(field).type):
                there = ", ".join(columns.names[:20])
                raise CorpusRefusedError(f"{path.name} has no text in {field!r}; there are {there}; set text_field")
            for batch in table.iter_batches(batch_size=_PARQUET_ROWS, columns=[field]):
                yield from batch.column(0).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise CorpusRefusedError(f"{path.name} cannot be read: {error}; store it again") from error


def _holds_text(types: Any, kind: Any) -> bool:
    """As texts, or as conversations, which are lists."""
    return any(is_one(kind) for is_one in (types.is_string, types.is_large_string, types.is_list, types.is_large_list))
