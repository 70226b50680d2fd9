"""How the tokens in tokenizer.json are merged from others, which decides what a trimmed vocabulary has to keep.

Three kinds of vocabulary can be trimmed:

- *Byte-level BPE* (GPT-2, Llama 3, Qwen): text is split into bytes first, and all 256 of them are kept.
- *BPE with byte fallback* (Gemma, Llama 2): text is split into characters first; one without a token becomes bytes.
- *Unigram* (T5, XGLM): the most probable pieces win, and none is merged from others. Pieces of one character are kept
  unless there are bytes to fall back to; so is the least probable piece, which sets the cost of an unknown character.

Imports neither torch nor tokenizers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from secateur_service.bounded import JsonLimits
from secateur_service.models.weights import ModelRefusedError, read_object

# Gemma's has 33 MB and two million values.
_LIMITS = JsonLimits(64 << 20, values=8_000_000)
# An ASCII character, a number of up to three digits, one or two punctuation marks, or indentation of up to 16.
_COMMON = re.compile(r" ?(?:[\x20-\x7E]|[0-9]{1,3}|[!-/:-@\[-`{-~]{1,2})|[ \t\r]{1,16}|[\n\r]{1,2}[ \t]{0,16}")
_BYTE = re.compile("<0x([0-9A-F]{2})>")
_WORD_START = "\u2581"  # a space in SentencePiece


def _byte_characters() -> dict[str, int]:
    """The characters that represent bytes in GPT-2: printable ones themselves, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + at): byte for at, byte in enumerate(others)}


_BYTE_OF = _byte_characters()


@dataclass(frozen=True)
class TokenGraph:
    """The tokens of a vocabulary by their ids, and the merges that produce them.

    Attributes:
        model: the part `model` of tokenizer.json.
        added: content of the added tokens by their ids; they are matched before anything else.
        byte_level: whether the characters of tokens stand for bytes.
    """

    model: Mapping[str, Any]
    added: Mapping[int, str]
    byte_level: bool

    @classmethod
    def open(cls, folder: Path) -> TokenGraph:
        """Read the tokenizer of a model's folder.

        Raises:
            ModelRefusedError: it cannot be read, or vocabularies of its kind cannot be trimmed.
        """
        content = read_object(folder / "tokenizer.json", _LIMITS)
        try:
            graph = cls.read(content)
            twice = next((token for token, number in graph.ids.items() if graph.tokens[number] != token), None)
        except (KeyError, TypeError, AttributeError) as error:
            raise ModelRefusedError("tokenizer.json does not have the form that tokenizers writes") from error
        if twice is not None:
            raise ModelRefusedError(f"tokenizer.json gives {twice[:80]!r} an id that another token has")
        return graph

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> TokenGraph:
        """Read the content of tokenizer.json.

        Raises:
            ModelRefusedError: vocabularies of its kind cannot be trimmed.
        """
        model = content.get("model")
        kind = model.get("type") if isinstance(model, dict) else None
        if not isinstance(model, dict) or kind not in ("BPE", "Unigram"):
            raise ModelRefusedError(f"its tokenizer is of type {kind}, and only BPE and Unigram can be trimmed")
        for mark in ("continuing_subword_prefix", "end_of_word_suffix"):
            if model.get(mark):
                raise ModelRefusedError(f"its tokenizer has a {mark}, with which a vocabulary cannot be trimmed")
        added = {entry["id"]: entry["content"] for entry in content.get("added_tokens") or ()}
        return cls(model, added, _uses_bytes(content))

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of every token, added ones included."""
        vocabulary = self.model["vocab"]
        ids = {piece: at for at, (piece, _) in enumerate(vocabulary)} if self._is_unigram else dict(vocabulary)
        return ids | {content: number for number, content in self.added.items()}

    @cached_property
    def tokens(self) -> dict[int, str]:
        """Every token as tokenizer.json spells it, by its id."""
        return {number: token for token, number in self.ids.items()}

    @cached_property
    def merges(self) -> list[tuple[str, str]]:
        """The pairs that are merged, in order of priority."""
        pairs = (pair.split(" ", 1) if isinstance(pair, str) else pair for pair in self.model["merges"])
        return [(left, right) for left, right in pairs]

    def parents(self, check: Callable[[], None] = lambda: None) -> dict[int, tuple[int, ...]]:
        """The two tokens of the last merge that produces each token by itself; none for characters and orphans.

        An orphan is a token that no sequence of merges produces. It only occurs in text if it is an added token, or if
        the tokenizer looks words up before it merges (`ignore_merges`).
        """
        found: dict[int, tuple[int, ...]] = {}
        for count, number in enumerate(self.tokens):
            if not count % 8192:
                check()
            found[number] = self._parents_of(number)
        return found

    def with_ancestors(self, numbers: Collection[int]) -> set[int]:
        """The tokens and all that they are merged from."""
        found, added = set[int](), {*numbers}
        while added:
            found |= added
            added = {parent for number in added & self.tokens.keys() for parent in self._parents_of(number)} - found
        return found

    def _parents_of(self, number: int) -> tuple[int, ...]:
        token = self.tokens[number]
        if self._is_unigram or len(token) == 1 or self._is_byte(token):
            return ()
        pair = _last(token, self._ranks)
        known = pair is not None and pair[0] in self.ids and pair[1] in self.ids
        return (self.ids[pair[0]], self.ids[pair[1]]) if pair is not None and known else ()

    @cached_property
    def _ranks(self) -> dict[tuple[str, str], int]:
        return {pair: rank for rank, pair in enumerate(self.merges)}

    def required(self) -> set[int]:
        """The tokens without which some text could not be encoded."""
        if self.byte_level:
            return {self.ids[character] for character in _BYTE_OF if character in self.ids}
        found = {number for number, token in self.tokens.items() if self._is_byte(token)}
        if self._is_unigram:
            found.add(min(range(len(self.model["vocab"])), key=lambda at: self.model["vocab"][at][1]))
            if self.model.get("unk_id") is not None:
                found.add(self.model["unk_id"])
        if self.model.get("unk_token") in self.ids:
            found.add(self.ids[self.model["unk_token"]])
        if not self.model.get("byte_fallback"):
            found |= {number for number, token in self.tokens.items() if len(token) == 1}
        return found

    def common(self) -> set[int]:
        """The tokens that take few rows and occur in every language: ASCII, numbers, punctuation and white space."""
        return {number for number in self.tokens if _COMMON.fullmatch(self.text(number))}

    def text(self, number: int) -> str:
        """The text of a token; partial characters and single bytes are U+FFFD."""
        token = self.tokens[number]
        if number in self.added:
            return token
        if self.byte_level:
            return bytes(_BYTE_OF.get(character, 0x3F) for character in token).decode(errors="replace")
        byte = _BYTE.fullmatch(token)
        return bytes([int(byte[1], 16)]).decode(errors="replace") if byte else token.replace(_WORD_START, " ")

    def _is_byte(self, token: str) -> bool:
        return not self.byte_level and _BYTE.fullmatch(token) is not None

    @property
    def _is_unigram(self) -> bool:
        return bool(self.model["type"] == "Unigram")


def _last(token: str, ranks: Mapping[tuple[str, str], int]) -> tuple[str, str] | None:
    """The last merge that produces a token by itself; None if no merges do."""
    pieces = list(token)
    nowhere = len(ranks)
    while len(pieces) > 2:
        best, place = nowhere, -1
        for at in range(len(pieces) - 1):
            rank = ranks.get((pieces[at], pieces[at + 1]), nowhere)
            if rank < best:
                best, place = rank, at
        if place < 0:
            return None
        pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
    pair = (pieces[0], pieces[1]) if len(pieces) == 2 else None
    return pair if pair in ranks else None


def _uses_bytes(content: Mapping[str, Any]) -> bool:
    """Whether the tokenizer maps text to characters that represent bytes."""
    steps = [content.get("pre_tokenizer"), content.get("normalizer")]
    while steps:
        step = steps.pop()
        if isinstance(step, dict):
            if step.get("type") == "ByteLevel":
                return True
            steps += [*(step.get("pretokenizers") or ()), *(step.get("normalizers") or ())]
    return False
