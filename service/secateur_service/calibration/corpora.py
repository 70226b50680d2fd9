"""Corpora: a folder with one text file per language, `{language}.txt`, UTF-8, one document a line.

Does not import torch: the API uses it to refuse a corpus without a language at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path


class CorpusRefusedError(ValueError):
    """The corpus does not have what is asked of it; the message says what it has."""


def corpus_files(names: Collection[str], languages: Collection[str] | None = None) -> list[str]:
    """Those files of a folder, by their names, that hold text of these languages; of any where none are given."""
    if languages is None:
        return [name for name in names if name.endswith(".txt")]
    return [name for name in names if name.removesuffix(".txt") in languages and name.endswith(".txt")]


@dataclass(frozen=True)
class Corpus:
    """A folder of text files."""

    folder: Path

    def languages(self) -> list[str]:
        """The languages that the folder has text in."""
        return sorted(path.stem for path in self.folder.glob("*.txt"))

    def file(self, language: str) -> Path:
        """The file of one language.

        Raises:
            CorpusRefusedError: there is none, or it is empty or a link out of the folder.
        """
        path = self.folder / f"{language}.txt"
        if not path.is_file() or not path.resolve().is_relative_to(self.folder.resolve()):
            known = ", ".join(self.languages()) or "none"
            raise CorpusRefusedError(f"has no file {language}.txt; it has text in: {known}")
        if path.stat().st_size == 0:
            raise CorpusRefusedError(f"{language}.txt is empty; put one document a line into it")
        return path

    def documents(self, language: str) -> Iterator[str]:
        """The documents of one language in the order of the file; blank lines are none.

        Raises:
            CorpusRefusedError: no such language, or a line that is not UTF-8.
        """
        path = self.file(language)
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    document = line.decode("utf-8").strip()
                except UnicodeDecodeError as error:
                    raise CorpusRefusedError(f"{path.name}, line {number}: not UTF-8; convert the file") from error
                if document:
                    yield document
