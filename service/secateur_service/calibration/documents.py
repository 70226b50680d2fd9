"""Defines a document, whatever its container: a text file, JSON lines, a table, a streamed data set.

The same text is the same document everywhere, for drawing, for its hash and for the split between purposes:

- Surrounding white space and byte-order marks are not part of it; a line ends with a line feed. No other character
  ends a document or a line.
- One longer than `LONGEST_CHARACTERS` is cut into parts that are separate documents: after a paragraph, else a line, a
  sentence, white space, or a character. So a one-line file can serve both purposes, and no more than a part is held or
  tokenised at a time. Where the cuts are depends on the text alone.
- A row without text (null, empty, without the field, of another type) is skipped and counted. If more than
  `MOST_WITHOUT_TEXT` of the rows have no text, the corpus is refused.

Does not import torch.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

LONGEST_CHARACTERS = 16_384
"""More than a sequence of 2,048 tokens in nearly every language, and few enough for many parts of a long text."""
MOST_WITHOUT_TEXT = 0.5
"""Share of the rows of a language. Above it, the field is more likely to be wrong than the rows are."""
Render = Callable[[Any], str]
"""Makes the text of a document out of a corpus's entry: a text or a conversation (a list of messages).

Raises ValueError if it cannot.
"""

BYTE_ORDER_MARK = "\N{ZERO WIDTH NO-BREAK SPACE}"
AROUND = BYTE_ORDER_MARK + "".join(filter(str.isspace, map(chr, range(1 << 16))))
"""What is stripped from both ends of a text: all white space, as in str.strip, and byte-order marks.

Unicode has no white space beyond its first plane; to look for it there takes every process 80 ms of its start.
"""
_CHECK_BYTES = 1 << 20
# What a row costs in addition to its bytes.
_ROW_BYTES = 1 << 10
# An endless corpus is judged every so many rows, because its end never comes.
_JUDGE_ROWS = 4096
_MOST_FIELDS = 20
# Where a text is cut, best places first: after the match.
_PLACES = (
    re.compile(r"\n[^\S\n]*+\n\s*+"),
    re.compile(r"\n\s*+"),
    re.compile(r"[.!?…؟۔।॥።፧։။།][\"'»”’)\]]*+\s++|[。！？｡][」』”’）]*+\s*+"),
    re.compile(r"\s++"),
)
_JOINER = "\N{ZERO WIDTH JOINER}"
# The longest run of characters that readers see as one, such as an emoji of several people.
_LONGEST_CLUSTER = 64


class CorpusRefusedError(ValueError):
    """The corpus does not have what is needed; the message says what it has."""


class TooLittleTextError(CorpusRefusedError):
    """Languages have less text than the job draws; the message names all of them, the field, and what would do."""


class NoTextError(Exception):
    """A row has no text; the message says what it has."""


class Rendered(str):
    """A text wrapped in a template, which supplies its own beginning and end.

    Attributes:
        origin: the original text, which is the same document.
        is_content: for every character, whether it was there before the template.
    """

    __slots__ = ("is_content", "origin")
    origin: str
    is_content: list[bool]


@dataclass(frozen=True)
class Row:
    """A row: a line of a file, or of a table.

    Attributes:
        place: file and number, for messages.
        content: a text, the pieces of one that is too long to hold, or a conversation; None where there is no text.
        found: what is there instead.
        fields: its fields that hold text.
    """

    place: str
    content: str | Iterator[str] | list[Any] | None
    found: str = ""
    fields: tuple[str, ...] = ()


@dataclass
class Reading:
    """What was found in one reading of a language's documents.

    Attributes:
        check: called often, whether or not there are documents; raises to stop.
        rows: how many rows there were.
        without_text: how many of them had no text.
        cut: how many texts were cut into parts.
    """

    check: Callable[[], None] = lambda: None
    rows: int = 0
    without_text: int = 0
    cut: int = 0
    _unchecked: int = _CHECK_BYTES
    _first: str = ""
    _fields: dict[str, None] = field(default_factory=dict)

    def look(self, size: int = 0) -> None:
        """Note that a line, a row or a piece of one was read; `size` is in bytes or characters."""
        self._unchecked += _ROW_BYTES + size
        if self._unchecked >= _CHECK_BYTES:
            self._unchecked = 0
            self.check()

    def skip(self, row: Row, found: str) -> None:
        """Count a row without text."""
        self.without_text += 1
        self._first = self._first or f"{row.place}: {found}"
        if len(self._fields) < _MOST_FIELDS:
            self._fields |= dict.fromkeys(row.fields)

    def judge(self, text_field: str) -> None:
        """Refuse the corpus if too many rows are without text.

        Raises:
            CorpusRefusedError: names the first such row, and the fields that do hold text.
        """
        if self.without_text <= MOST_WITHOUT_TEXT * self.rows:
            return
        others = [name for name in self._fields if name != text_field]
        remedy = f"there is text in {', '.join(others)}; set text_field" if others else "put text there"
        share = (
            f"none of {self.rows} rows has text in {text_field!r}"
            if self.without_text == self.rows
            else f"{self.without_text} of {self.rows} rows have no text in {text_field!r}, and at most half of them may"
        )
        raise CorpusRefusedError(f"{self._first}; {share}; {remedy}")


def documents_of(
    rows: Iterable[Row], text_field: str, render: Render | None, reading: Reading, *, is_endless: bool = False
) -> Iterator[str]:
    """The documents in the given rows; rows without text are counted and skipped.

    Args:
        rows: in any order.
        text_field: where their text is, for messages.
        render: makes the text of every document; None where texts are used unchanged.
        reading: collects what is found.
        is_endless: whether to judge the rows periodically, because their end may not come.

    Raises:
        CorpusRefusedError: too many rows are without text.
    """
    for row in rows:
        reading.look()
        reading.rows += 1
        parts = 0
        try:
            for part in _parts_of(row, render, reading):
                parts += 1
                yield part
        except NoTextError as error:
            reading.skip(row, str(error))
        else:
            if not parts:
                reading.skip(row, "the text is empty")
        reading.cut += parts > 1
        if is_endless and reading.rows % _JUDGE_ROWS == 0:
            reading.judge(text_field)
    reading.judge(text_field)


def rendered(render: Render, content: Any) -> Rendered:
    """Render a text or a conversation.

    Raises:
        NoTextError: the template does not accept it.
    """
    try:
        text = Rendered(_whole(render(content)))
    except ValueError as error:
        raise NoTextError(str(error)) from error
    text.origin = content if isinstance(content, str) else str(text)
    text.is_content = _find_content(text, _strings_of(content))
    return text


def _strings_of(content: Any) -> Iterator[str]:
    """The content: the text, or the contents of the messages, which may have several parts."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for entry in content:
            if isinstance(entry, dict):
                yield from _strings_of(entry.get("content", entry.get("text")))


def _find_content(text: str, said: Iterable[str]) -> list[bool]:
    """For every character, whether it is content; true for all if the template changed the content."""
    is_content, reached = [False] * len(text), 0
    for part in filter(None, (_whole(one).strip() for one in said)):
        start = text.find(part, reached)
        if start < 0:
            return [True] * len(text)
        reached = start + len(part)
        is_content[start:reached] = [True] * len(part)
    return is_content


def parts(pieces: Iterable[str], most: int = LONGEST_CHARACTERS) -> Iterator[str]:
    """The documents in a text: the text itself, or its parts if it is long; none if it is empty.

    Args:
        pieces: the text, split anywhere. No more than one piece and a few parts are held in memory.
        most: the maximum number of characters in a part.
    """
    rest = ""
    for piece in pieces:
        rest += piece
        # Beyond twice the length a cut is certainly needed, however much white space ends the text.
        start = 0
        while len(rest) - start > 2 * most:
            part, start = _next_part(rest, start, most)
            if part:
                yield part
        rest = rest[start:] if start else rest
    start, end = 0, len(rest.rstrip(AROUND))
    rest = rest[:end]
    while len(rest) - start > most:
        part, start = _next_part(rest, start, most)
        if part:
            yield part
    if part := rest[start:].strip(AROUND):
        yield part


def _next_part(text: str, start: int, most: int) -> tuple[str, int]:
    """The next part of a text that is longer than one part, and where the rest begins."""
    head = text[start : start + 2 * most]
    lead = len(head) - len(head.lstrip(AROUND))
    if lead:  # leading white space is not part of the text, however long it is
        return "", start + lead
    if not head[most:].strip(AROUND):
        return head[:most].strip(AROUND), start + most
    at = _cut(head, most)
    return head[:at].strip(AROUND), start + at


def _cut(head: str, most: int) -> int:
    """Where to cut a text, given its beginning: in the second half of the maximum part."""
    for place in _PLACES:
        ends = [found.end() for found in place.finditer(head, most // 2, most)]
        if ends:
            return ends[-1]
    first = max(most // 2, most - _LONGEST_CLUSTER)
    return next((at for at in range(most, first, -1) if not _is_inside(head, at)), most)


def _is_inside(text: str, at: int) -> bool:
    """Whether a cut here would split what readers see as one character."""
    before, behind = text[at - 1], text[at]
    return (
        unicodedata.category(behind).startswith("M")
        or _JOINER in (before, behind)
        or "\U0001f3fb" <= behind <= "\U0001f3ff"  # a skin tone
        or "\U0001f1e6" <= behind <= "\U0001f1ff"  # half a flag
        or (before == "\r" and behind == "\n")
    )


def _parts_of(row: Row, render: Render | None, reading: Reading) -> Iterator[str]:
    content = row.content
    if content is None:
        raise NoTextError(row.found)
    if isinstance(content, list):
        if not content:
            raise NoTextError("the list is empty")
        if render is None:
            raise NoTextError("it is a conversation, not text; set chat_template, or another text_field")
        whole = rendered(render, content)
        if len(whole) <= LONGEST_CHARACTERS:
            yield whole
            return
        reached = 0
        for part in parts([whole]):
            start = whole.index(part, reached)
            reached = start + len(part)
            made = Rendered(part)
            made.origin = part
            made.is_content = whole.is_content[start:reached]
            yield made
        return
    for part in parts([_whole(content)] if isinstance(content, str) else _joined_line_ends(content)):
        reading.look(len(part))
        yield rendered(render, part) if render else part


def _joined_line_ends(pieces: Iterable[str]) -> Iterator[str]:
    """The same text with line ends as in `_whole`; a line end may be split across two pieces."""
    held = ""
    for piece in pieces:
        text = held + piece
        held = "\r" if text.endswith("\r") else ""
        yield (text[:-1] if held else text).replace("\r\n", "\n")
    yield held


def _whole(text: str) -> str:
    """A text that UTF-8 can encode (JSON may hold half characters), with line feeds as line ends."""
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-8", "replace").decode()
    return text.replace("\r\n", "\n")
