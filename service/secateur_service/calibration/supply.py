"""How many tokens a text can be at the most, found out without a tokenizer. Without torch.

A token stands for at least one byte of the text that the tokenizer sees. That text may be in one of Unicode's
normalisation forms, some of which are longer. A document may further have a token of its own for its beginning, and up
to three that separate it from the next one. Nothing is known of what a chat template adds, and of compressed files.
"""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from secateur_service.calibration.containers import COMPRESSIONS, kind_of
from secateur_service.calibration.corpora import CorpusRefusedError, FolderCorpus
from secateur_service.calibration.splitting import document_hash

MOST_BEGINNING_TOKENS = 2
"""The most tokens with which a tokenizer begins a window: they take no text."""
BYTES_PER_TOKEN = 4
"""About as many in the languages that vocabularies serve well; fewer in others."""
SAFE_BYTES_PER_TOKEN = 8
"""More than any of the tokenizers that benchmarks/gpu uses needs on its text (`BYTES_PER_TOKEN` there)."""

_FORMS: tuple[Literal["NFC", "NFD", "NFKC", "NFKD"], ...] = ("NFC", "NFD", "NFKC", "NFKD")
# The most that a form adds: UAX #15, table 10, of UTF-8.
_LONGEST_FORM = 11
_TOKENS_AROUND = 4
# A line of JSON is read whole.
_MOST_READ_BYTES = 8 << 20
# A document that is a line of a file has a byte, and one for the line's end.
_SHORTEST_DOCUMENT_BYTES = 2


@dataclass(frozen=True)
class Supply:
    """The text of one language for one purpose.

    Attributes:
        size_bytes: its bytes, as far as it was read or as its files are large.
        most_tokens: no tokenizer makes more tokens of it; None if that is unknown.
        is_read: whether the text was read; otherwise it is that of both purposes, with what occurs twice.
    """

    size_bytes: int
    most_tokens: int | None
    is_read: bool = False


@dataclass
class ReadBudget:
    """Bytes of text that may still be read."""

    left: int


def supply_of(
    corpus: FolderCorpus, language: str, accepts: Callable[[str], bool], enough_bytes: int, budget: ReadBudget
) -> Supply:
    """The text of a language in a folder on this machine, read if it is not much.

    Args:
        corpus: the folder.
        language: one that it has.
        accepts: whether a document is for this purpose; the same document counts once.
        enough_bytes: reading stops there.
        budget: what may be read; where it does not suffice, and for large files, the sizes of the files decide.

    Raises:
        CorpusRefusedError: the text cannot be read.
    """
    files = [(path.name, path.stat().st_size) for path in corpus.files(language)]
    if not _is_plain(files) or sum(size for _, size in files) > _MOST_READ_BYTES:
        return supply_of_sizes(files)
    seen: set[bytes] = set()
    size, most = 0, 0
    for document in corpus.documents(language):
        if budget.left <= 0:
            return supply_of_sizes(files)
        budget.left -= len(document)
        key = document_hash(document)
        if key not in seen and accepts(document):
            seen.add(key)
            size += len(document.encode())
            most += most_tokens(document)
            if size >= enough_bytes:
                break
    return Supply(size, most, is_read=True)


def supply_of_sizes(files: Sequence[tuple[str, int]]) -> Supply:
    """The text in files of which only names and sizes are known."""
    size = sum(size for _, size in files)
    if not _is_plain(files):
        return Supply(size, None)
    documents = size // _SHORTEST_DOCUMENT_BYTES + len(files)
    return Supply(size, _LONGEST_FORM * size + _TOKENS_AROUND * documents)


def most_tokens(document: str) -> int:
    """No tokenizer makes more tokens of a document."""
    longest = len(document)
    if not document.isascii():
        longest = max(len(text.encode()) for text in (document, *(unicodedata.normalize(f, document) for f in _FORMS)))
    return longest + _TOKENS_AROUND


def sizes_of(corpus: FolderCorpus, languages: Sequence[str]) -> dict[str, list[tuple[str, int]]]:
    """Names and sizes of the files of those languages that a folder has."""
    found: dict[str, list[tuple[str, int]]] = {}
    for language in languages:
        with contextlib.suppress(CorpusRefusedError):
            found[language] = [(path.name, path.stat().st_size) for path in corpus.files(language)]
    return found


def _is_plain(files: Sequence[tuple[str, int]]) -> bool:
    """Whether the size of the files bounds that of their text: neither compressed nor tables."""
    return not any(name.endswith(COMPRESSIONS) or kind_of(name) == ".parquet" for name, _ in files)
