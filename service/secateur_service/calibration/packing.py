"""From documents to windows: token sequences of one length, each starting the way the tokenizer starts a text.

Models are trained on sequences that start the way their tokenizer starts a text, and some, such as Gemma, depend on it.
So every window starts with the tokens that the tokenizer itself puts before a text, even if the window starts in the
middle of a document; if the tokenizer adds none, neither do windows.

Two documents in a window are separated by a line break. The tokens that begin a text are not repeated there: in the
middle of a window they cost Gemma-3-270M a quarter to a third more bits per byte, and an end-of-text token costs it and
SmolLM2-135M 2 to 5 %; `benchmarks/joining.py` compares the options. A model that was trained on documents joined by
these tokens can be given them: the end-of-text token, if the tokenizer has one, and the tokens that begin a text; once,
if both are the same token.

All of this is context. It stands for no text, and evaluation never scores it.

The same stretches of text can be tokenised again by a different tokenizer, that of a model with a trimmed vocabulary:
each window then holds the same text as before, in as many tokens as that takes.
"""

from __future__ import annotations

import bisect
import enum
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from secateur_service.calibration.documents import Rendered
from secateur_service.calibration.tokenizing import tokenize, tokenizer_failures

Separator = Literal["newline", "end_of_text"]
Place = tuple[int, int, int]
"""Number of a document, a character in it, and which of the tokens that begin there.

The separator from the previous document is before the first character, at -1.
"""
_BATCH_DOCUMENTS = 512
# Tokens with their places take a hundred times the memory of their text.
_BATCH_CHARACTERS = 1 << 17


@dataclass(frozen=True)
class Framing:
    """What a tokenizer puts around texts.

    Attributes:
        beginning: token ids that begin a text; empty if the tokenizer adds none.
        separator: token ids between two documents of a window.
        special: token ids that stand for no text, such as those with which chat templates begin and end turns.
    """

    beginning: tuple[int, ...]
    separator: tuple[int, ...]
    special: frozenset[int] = frozenset()

    @classmethod
    def of(cls, tokenizer: Any, separator: Separator = "newline") -> Framing:
        """The framing of a fast tokenizer of transformers: what it adds by default.

        Args:
            tokenizer: the tokenizer.
            separator: `newline`, which is empty if the vocabulary has no line break; or `end_of_text`.
        """
        with tokenizer_failures():
            encoded = tokenizer("a", return_special_tokens_mask=True, verbose=False)
        ids, special = encoded["input_ids"], encoded["special_tokens_mask"]
        length = next((at for at, is_special in enumerate(special) if not is_special), len(ids))
        beginning = tuple(ids[:length])
        between = _newline(tokenizer) if separator == "newline" else _end_of_text(tokenizer, beginning)
        named = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
        return cls(beginning, between, frozenset(named - {tokenizer.unk_token_id}))


class Kind(enum.IntEnum):
    """What a token of a window stands for."""

    SEPARATOR = 0
    TEMPLATE = 1
    TEXT = 2


@dataclass(frozen=True)
class Windows:
    """Windows of S tokens.

    Attributes:
        tokens: N×S token ids.
        token_bytes: N×S, the UTF-8 bytes of text that each token stands for.
        is_text: N×S, whether a token stands for text, or for part of a character, and not for the framing.
        document_of: N×S, the number of the document that a token is from; -1 before and after the text.
        spans: where each window begins and ends in the documents.
    """

    tokens: Tensor
    token_bytes: Tensor
    is_text: Tensor
    document_of: Tensor
    spans: tuple[tuple[Place, Place], ...]

    def first(self, count: int) -> Windows:
        """The first windows, or all if there are fewer."""
        parts = (self.tokens, self.token_bytes, self.is_text, self.document_of, self.spans)
        return Windows(*(part[:count] for part in parts))  # type: ignore[arg-type]


@dataclass
class Packed:
    """Documents one after another, with the separators between them.

    Attributes:
        ids: token ids.
        sizes: the UTF-8 bytes of text that each token stands for.
        kinds: what each token stands for.
        places: where each token begins in the documents; a separator's tokens are before the document that follows.
        documents: the documents, in order.
    """

    framing: Framing
    ids: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    kinds: list[Kind] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    documents: list[str] = field(default_factory=list)

    def add(self, text: str, ids: Sequence[int], offsets: Sequence[tuple[int, int]]) -> None:
        """Append a document.

        Args:
            text: the document; one wrapped in a template has its own beginning and end.
            ids: its token ids.
            offsets: the characters [start, end) of each token, as a fast tokenizer reports them.
        """
        number = len(self.documents)
        if self.documents and not isinstance(text, Rendered):
            self.ids += self.framing.separator
            self.sizes += [0] * len(self.framing.separator)
            self.kinds += [Kind.SEPARATOR] * len(self.framing.separator)
            self.places += [(number, -1, at) for at in range(len(self.framing.separator))]
        self.documents.append(text)
        self.ids += ids
        for start, _ in offsets:
            number_before, start_before, at = self.places[-1] if self.places else (-1, -1, -1)
            self.places.append((number, start, at + 1 if (number, start) == (number_before, start_before) else 0))
        if isinstance(text, Rendered):
            is_text = [
                token not in self.framing.special and any(text.is_content[start:end])
                for token, (start, end) in zip(ids, offsets, strict=True)
            ]
            sizes = token_sizes(text, offsets, text.is_content)
            self.sizes += [size if counts else 0 for size, counts in zip(sizes, is_text, strict=True)]
            self.kinds += [Kind.TEXT if counts else Kind.TEMPLATE for counts in is_text]
        else:
            self.sizes += token_sizes(text, offsets)
            self.kinds += [Kind.TEXT] * len(ids)

    def windows(self, count: int, length: int, least: int | None = None) -> Windows | None:
        """The first `count` windows of `length` tokens, or as many as there are if at least `least`; else None.

        The tokens that begin a text are not doubled if a window starts with a separator, or with a template that
        includes them.
        """
        ranges: list[tuple[int, int]] = []
        at = 0
        for _ in range(count):
            while at < len(self.ids) and self.kinds[at] is Kind.SEPARATOR:
                at += 1
            start = self._after_beginning(at)
            end = start + length - len(self.framing.beginning)
            if end > len(self.ids):
                if least is None or len(ranges) < max(1, least):
                    return None
                break
            ranges.append((at, end))
            at = end
        return self._windows(ranges, length)

    def windows_between(self, spans: Sequence[tuple[Place, Place]]) -> Windows:
        """Windows of given stretches of the documents, as long as the longest of them needs.

        A token belongs to the window in which it begins. Shorter windows are padded after their text, where none of its
        tokens can see the padding.
        """
        ranges = [(bisect.bisect_left(self.places, at), bisect.bisect_left(self.places, end)) for at, end in spans]
        beginning = len(self.framing.beginning)
        length = max(beginning + end - self._after_beginning(at) for at, end in ranges)
        return self._windows(ranges, length)

    def _after_beginning(self, at: int) -> int:
        """Where the window's own tokens start, skipping the tokens that begin a text if a template includes them."""
        first = slice(at, at + len(self.framing.beginning))
        doubled = self.ids[first] == list(self.framing.beginning) and Kind.TEXT not in self.kinds[first]
        return first.stop if doubled else at

    def _windows(self, ranges: Sequence[tuple[int, int]], length: int) -> Windows:
        """Windows of tokens [at, end)."""
        beginning = list(self.framing.beginning)
        tokens, sizes, kinds, documents = [], [], [], []
        for at, end in ranges:
            start = self._after_beginning(at)
            rest = length - len(beginning) - (end - start)
            tokens.append(beginning + self.ids[start:end] + self.ids[:1] * rest)
            sizes.append([0] * len(beginning) + self.sizes[start:end] + [0] * rest)
            kinds.append([Kind.SEPARATOR] * len(beginning) + self.kinds[start:end] + [Kind.SEPARATOR] * rest)
            numbers = [number for number, _, _ in self.places[start:end]]
            documents.append([-1] * len(beginning) + numbers + [-1] * rest)
        shape = (len(ranges), length)
        behind = (len(self.documents), -1, 0)
        return Windows(
            torch.tensor(tokens, dtype=torch.long).view(shape),
            torch.tensor(sizes, dtype=torch.long).view(shape),
            (torch.tensor(kinds, dtype=torch.long) == Kind.TEXT).view(shape),
            torch.tensor(documents, dtype=torch.long).view(shape),
            tuple((self.places[at], self.places[end] if end < len(self.places) else behind) for at, end in ranges),
        )


def pack(
    tokenizer: Any,
    documents: Iterable[str],
    needed: int,
    check: Callable[[], None],
    separator: Separator = "newline",
) -> Packed:
    """Tokenise documents, in order, until there are enough tokens.

    Args:
        tokenizer: a fast tokenizer of transformers.
        documents: texts.
        needed: number of tokens after which no further document is added.
        check: called often; raises to stop.
        separator: what separates two documents.
    """
    packed = Packed(Framing.of(tokenizer, separator))
    for batch in _batched(documents):
        check()
        encoded = tokenize(tokenizer, batch, return_offsets_mapping=True)
        for text, ids, offsets in zip(batch, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            if len(packed.ids) >= needed:
                return packed
            packed.add(text, ids, offsets)
    return packed


def token_sizes(text: str, offsets: Sequence[tuple[int, int]], is_content: Sequence[bool] | None = None) -> list[int]:
    """UTF-8 bytes of content that each token stands for; their sum is that of the text up to the last token.

    Several tokens may share one character (byte-level vocabularies split it): its bytes count for the first of them.

    Args:
        text: the tokenised text.
        offsets: the characters [start, end) of each token, as a fast tokenizer reports them.
        is_content: for every character, whether it is content and not part of a template; all by default.
    """
    ends = [0]
    for at, character in enumerate(text):
        ends.append(ends[-1] + (len(character.encode()) if is_content is None or is_content[at] else 0))
    sizes, reached = [], 0
    for _, end in offsets:
        sizes.append(max(0, ends[end] - reached))
        reached = max(reached, ends[end])
    return sizes


def _newline(tokenizer: Any) -> tuple[int, ...]:
    ids = tokenize(tokenizer, ["\n"])["input_ids"][0]
    return tuple(ids) if "\n" in tokenizer.decode(ids) else ()


def _end_of_text(tokenizer: Any, beginning: tuple[int, ...]) -> tuple[int, ...]:
    end = tokenizer.eos_token_id
    return beginning if end is None or end in beginning else (end, *beginning)


def _batched(documents: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document)
        if len(batch) == _BATCH_DOCUMENTS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
