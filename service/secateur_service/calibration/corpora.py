"""Corpora: documents by language; and users' own corpora, a folder with text per language, read document by document.

A language's text in a folder is a file `{language}.txt` (UTF-8, one document per line), `{language}.jsonl` (one JSON
object per line) or `{language}.parquet`, the former two also as `.gz` or `.zst`; or a folder `{language}/` of such
files with any names. Any spelling of the language is accepted, but only one per folder. Archives are refused.

Does not import torch: the API uses it to immediately refuse a corpus that lacks a language.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Protocol

from secateur._language_names import in_words, nearest_languages
from secateur._suggestions import did_you_mean
from secateur_service.calibration.containers import is_archive, kind_of, rows_of
from secateur_service.calibration.documents import CorpusRefusedError, Reading, Render, documents_of
from secateur_service.calibration.languages import parse_language, spelling_of
from secateur_service.links import stays_in

__all__ = [
    "DEFAULT_TEXT_FIELD",
    "Corpus",
    "CorpusRefusedError",
    "FolderCorpus",
    "Reading",
    "corpora_within",
    "corpus_files",
]

DEFAULT_TEXT_FIELD = "text"
# How many files of unknown languages an error message names.
_NAMED_FILES = 5
_NAMED_IN_WORDS = 12


class Corpus(Protocol):
    """Documents by language."""

    @property
    def identity(self) -> str:
        """Corpora with the same identity have the same documents."""

    @property
    def is_endless(self) -> bool:
        """Whether it is too large to read to its end; if so, the seed decides where reading starts."""

    def documents(self, language: str, seed: int, reading: Reading) -> Iterator[str]:
        """The documents of one language; rows without text are skipped.

        Args:
            language: the language to read.
            seed: decides where to start reading an endless corpus.
            reading: collects what else is found.

        Raises:
            CorpusRefusedError: no such language, or text that cannot be read; the message says where and why.
        """


def corpus_files(names: Collection[str], languages: Collection[str] | None = None) -> list[str]:
    """The files of a folder, by their paths in it, that hold text of the given languages; of any language by default.

    Archives are included, so that they can be refused.
    """
    wanted = None if languages is None else {parse_language(language) for language in languages}
    return [name for name in names if (found := _named(PurePosixPath(name))) and (wanted is None or found[0] in wanted)]


def corpora_within(names: Collection[str], languages: Collection[str]) -> list[str]:
    """The subfolders that hold files of the languages, as a corpus would: those that hold the most of them.

    Args:
        names: the files of a folder and of its subfolders, by their paths in it.
        languages: what is looked for.
    """
    wanted, held = {*map(parse_language, languages)}, dict[str, set[str]]()
    for name in names:
        folder, _, inner = name.partition("/")
        found = _named(PurePosixPath(inner)) if inner else None
        if found is not None and found[0] in wanted and folder.isprintable():
            held.setdefault(folder, set()).add(found[0])
    most = max(map(len, held.values()), default=0)
    return sorted(folder for folder, has in held.items() if len(has) == most)[:_NAMED_FILES]


@dataclass(frozen=True)
class FolderCorpus:
    """A folder of text files.

    Attributes:
        text_field: where JSON objects and parquet tables have the text.
        render: makes the text of every document; None where documents are plain texts, used unchanged.
    """

    folder: Path
    text_field: str = DEFAULT_TEXT_FIELD
    render: Render | None = None
    is_endless = False

    @property
    def identity(self) -> str:
        """The folder's resolved path."""
        return str(self.folder.resolve())

    def languages(self) -> list[str]:
        """The languages that the folder has text in, in canonical form."""
        return sorted({file.language for file in self._files if kind_of(file.path.name)})

    def files(self, language: str) -> list[Path]:
        """The files of one language, in the order of their names.

        Args:
            language: any of its tags.

        Raises:
            CorpusRefusedError: there is none, or all are empty, or one is an archive or a link out of the folder, or
                the language occurs under two names.
        """
        wanted = parse_language(language)
        files = [file for file in self._files if file.language == wanted]
        found = [file.path for file in files]
        spellings = {file.spelling: file.path for file in files}
        if not found:
            raise CorpusRefusedError(self._missing(language))
        for path in found:
            if not stays_in(path, self.folder):
                raise CorpusRefusedError(
                    f"has {path.name}, a link that leaves its folder or loops; put the file itself there"
                )
            if not path.exists():
                raise CorpusRefusedError(f"has {path.name}, a link that leads nowhere; put the file itself there")
        if len(spellings) > 1:
            first, second = (path.relative_to(self.folder).parts[0] for path in list(spellings.values())[:2])
            raise CorpusRefusedError(
                f"has {first} and {second}, and both are {wanted}; put them together under one name, or remove one"
            )
        for path in found:
            if kind_of(path.name) is None:
                archive = path.relative_to(self.folder).as_posix()
                raise CorpusRefusedError(
                    f"has an archive, {archive}; unpack it into {wanted}.txt, .jsonl or .parquet, or a folder {wanted} "
                    "of such files"
                )
        if not any(path.stat().st_size for path in found):
            raise CorpusRefusedError(f"has nothing in {found[0].name}, it is empty; put one document a line into it")
        return found

    def documents(self, language: str, seed: int = 0, reading: Reading | None = None) -> Iterator[str]:  # noqa: ARG002
        """The documents of one language in the order of the files; rows without text are skipped.

        Raises:
            CorpusRefusedError: no such language, or a file that cannot be read; the message says where and why.
        """
        reading = reading or Reading()
        rows = (row for path in self.files(language) for row in rows_of(path, self.text_field, reading))
        return documents_of(rows, self.text_field, self.render, reading)

    @cached_property
    def _files(self) -> list[_File]:
        """The files of all languages, in the order of their names."""
        found = []
        for path in self._paths():
            named = _named(path.relative_to(self.folder))
            if named is not None:
                found.append(_File(path, *named))
        return found

    def _paths(self) -> Iterator[Path]:
        try:
            for path in sorted(self.folder.iterdir()):
                for inner in sorted(path.iterdir()) if path.is_dir() and _language(path.name) else (path,):
                    if inner.is_file() or (inner.is_symlink() and not inner.exists()):
                        yield inner
        except OSError as error:
            raise CorpusRefusedError(f"cannot be read: {error.filename}: {error.strerror}") from error

    def _missing(self, language: str) -> str:
        name = spelling_of(language)
        known = self.languages()
        has = ", ".join(map(in_words, known) if len(known) <= _NAMED_IN_WORDS else known) or "none"
        meant = did_you_mean(list(map(in_words, nearest_languages(language, known))))
        odd = [
            path.name for path in self._paths() if kind_of(path.name) and _named(path.relative_to(self.folder)) is None
        ]
        named = ", ".join(filter(str.isprintable, odd[:_NAMED_FILES]))
        others = f"; named by no language that BCP 47 knows: {named}" if named else ""
        return (
            f"has no file {name}.txt, {name}.jsonl or {name}.parquet, and no folder {name} of such files; it has text "
            f"in: {has}{others}{f'; {meant}' * bool(meant)}"
        )


@dataclass(frozen=True)
class _File:
    """A file of a folder, with its language in canonical form and as spelled in the folder."""

    path: Path
    language: str
    spelling: str


def _named(path: Path | PurePosixPath) -> tuple[str, str] | None:
    """The language of a file from its path relative to the folder, in canonical form and as spelled there.

    None if it holds no text, or if its name is not a language.
    """
    ending = kind_of(path.name) or ("." if is_archive(path.name) else None)
    if ending is None or path.name.startswith("."):
        return None
    if len(path.parts) > 2:
        return None
    spelling = path.name[: path.name.index(ending)] if len(path.parts) == 1 else path.parts[0]
    language = _language(spelling)
    return (language, spelling) if language else None


def _language(name: str) -> str | None:
    try:
        return parse_language(name)
    except ValueError:
        return None
