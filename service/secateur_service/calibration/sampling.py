"""From documents to token sequences: shuffled with a seed, packed, the same number of tokens for every language.

Documents come in the order of a hash of theirs, keyed by the seed: as good as a shuffle, and the same in whatever order
and under whatever names the files lie. Only as many documents as are needed are kept while the corpus is read, however
large it is; a document that is there twice counts once. Of a corpus without an end a part is read, several times as
large as what is needed, which begins where the seed says. Long texts come as several documents (`documents`).

They are packed one after another, each as the tokenizer's beginning-of-text token, its text and the end-of-text token
(where the tokenizer has them), and cut into sequences of equal length. So languages with short documents lose nothing.
No document serves both calibration and evaluation: where one corpus serves both, a hash of the document decides; where
two do, calibration leaves out what evaluation took.
"""

from __future__ import annotations

import hashlib
import heapq
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from secateur_service.calibration.corpora import Corpus
from secateur_service.calibration.documents import CorpusRefusedError, Reading, Rendered
from secateur_service.calibration.identification import Identified, identify

# Of every EVALUATION_SHARE documents of a corpus that serves both purposes, one goes to evaluation.
EVALUATION_SHARE = 5
_BATCH_DOCUMENTS = 512
# Tokens with their places take a hundred times the memory of the text that they stand for.
_BATCH_CHARACTERS = 1 << 17
# More than tokens have in most languages and vocabularies; where they have more, the corpus is read once more.
_BYTES_PER_TOKEN = 16
# How much of a corpus without an end is read, as a multiple of what is kept, and at the least.
_READ_FACTOR = 8
_READ_BYTES = 8 << 20
_BYTE_FALLBACK = re.compile("<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class TextSample:
    """The sequences drawn for one language.

    Attributes:
        tokens: N×S token ids.
        token_bytes: N×S, the UTF-8 bytes of text that each token stands for; 0 for special tokens.
        documents: number of documents that the sequences touch.
        unknown_tokens: tokens that stand for text that the vocabulary does not have: unknown ones, and single bytes
            of a vocabulary that falls back to them.
        identified: what language the documents seem to be in; None where nobody asked, or it cannot be told.
        dropped: of text that the model wrote, how many texts were left out; None where the corpus is the text.
        rows_without_text: rows of the corpus that were skipped, because they have no text.
        cut_texts: texts of the corpus that were cut into several documents, because they are long.
        document_hashes: hashes of the documents, while other text is drawn that has to differ.
    """

    language: str
    tokens: Tensor
    token_bytes: Tensor
    documents: int
    unknown_tokens: int = 0
    identified: Identified | None = None
    dropped: int | None = None
    rows_without_text: int = 0
    cut_texts: int = 0
    document_hashes: frozenset[bytes] = frozenset()

    @property
    def num_tokens(self) -> int:
        """Tokens in all."""
        return self.tokens.numel()

    @property
    def num_bytes(self) -> int:
        """Bytes of text in all."""
        return int(self.token_bytes.sum())

    def digest(self) -> str:
        """SHA-256 of the token ids."""
        return hashlib.sha256(self.tokens.numpy().astype("<i8").tobytes()).hexdigest()


@dataclass(frozen=True)
class Written:
    """Texts that a model wrote, and how many of them were left out."""

    texts: list[str]
    dropped: int


class Writer(Protocol):
    """Makes calibration text out of documents; `generation.SelfWriter` is one."""

    def write(self, language: str, documents: Sequence[str], needed: int, check: Callable[[], None]) -> Written:
        """Texts of at least `needed` tokens together, as far as the documents go."""


def draw_samples(
    tokenizer: Any,
    *,
    calibration: Corpus,
    evaluation: Corpus,
    languages: Sequence[str],
    evaluation_languages: Sequence[str],
    sequences: int,
    evaluation_tokens: int,
    sequence_length: int,
    seed: int,
    check: Callable[[], None],
    writer: Writer | None = None,
    identifies: bool = False,
) -> tuple[dict[str, TextSample], dict[str, TextSample]]:
    """Draw the calibration and the evaluation text.

    Args:
        tokenizer: a fast tokenizer of transformers.
        calibration: corpus of the calibration text.
        evaluation: corpus of the evaluation text; may be the same.
        languages: languages of the mix.
        evaluation_languages: languages of the evaluation.
        sequences: calibration sequences per language.
        evaluation_tokens: tokens per evaluation language; whole sequences are taken.
        sequence_length: tokens per sequence, S.
        seed: of the order in which calibration documents are drawn; evaluation documents are always the same.
        check: called often; raises to stop.
        writer: makes the calibration text out of the documents that are drawn; None where they are the text.
        identifies: whether the language of the text is guessed.

    Returns:
        Calibration and evaluation samples by language.

    Raises:
        CorpusRefusedError: a language has too little text, or none; the message says how much there is.
    """
    shared = calibration.identity == evaluation.identity
    held_out: dict[str, TextSample] = {}
    for language in evaluation_languages:
        text = _Text(
            evaluation,
            language,
            0,
            b"",
            lambda document: not shared or for_evaluation(document),
            identifies,
            _Split("evaluation", "go to calibration, by a hash of each", "calibration.corpus"),
        )
        held_out[language] = _draw(tokenizer, text, evaluation_tokens // sequence_length, sequence_length, check)
    drawn: dict[str, TextSample] = {}
    for language in languages:
        used = held_out[language].document_hashes if language in held_out else frozenset()

        def is_free(document: str, used: frozenset[bytes] = used) -> bool:
            return not for_evaluation(document) if shared else document_hash(document) not in used

        why = "go to evaluation, by a hash of each" if shared else "are evaluation text too"
        split = _Split("calibration", why, "evaluation.corpus")
        text = _Text(calibration, language, seed, f"{seed}/{language}".encode(), is_free, identifies, split, writer)
        drawn[language] = _draw(tokenizer, text, sequences, sequence_length, check)
    return drawn, held_out


def document_hash(text: str) -> bytes:
    """Identity of a document; a template around it makes no other one of it."""
    origin = text.origin if isinstance(text, Rendered) else text
    return hashlib.sha256(origin.encode()).digest()[:16]


def for_evaluation(text: str) -> bool:
    """Whether a document of a corpus that serves both purposes belongs to evaluation."""
    return document_hash(text)[0] % EVALUATION_SHARE == 0


@dataclass(frozen=True)
class _Split:
    """What part of a corpus a purpose has, for people.

    Attributes:
        purpose: calibration or evaluation.
        others: what becomes of the other documents.
        field: the corpus that the other purpose could have instead.
    """

    purpose: str
    others: str
    field: str


@dataclass
class _Count:
    """How many documents there were in one reading, and how many of them were not to be drawn."""

    documents: int = 0
    others: int = 0


@dataclass(frozen=True)
class _Text:
    """The documents of one language that may be drawn.

    Attributes:
        seed: where a corpus without an end is begun to be read.
        key: of the hash that says in which order the documents come.
        accepts: whether a document may be drawn.
        identifies: whether the language of what is drawn is guessed.
        split: why a document may not be drawn.
        writer: makes the text out of the documents; None where they are the text.
    """

    corpus: Corpus
    language: str
    seed: int
    key: bytes
    accepts: Callable[[str], bool]
    identifies: bool
    split: _Split
    writer: Writer | None = None

    def documents(self, reading: Reading, count: _Count) -> Iterator[str]:
        for document in self.corpus.documents(self.language, self.seed, reading):
            count.documents += 1
            if self.accepts(document):
                yield document
            else:
                count.others += 1

    def too_short(self, tokens: int, needed: int, documents: int, count: _Count, cut: int) -> CorpusRefusedError:
        """What to say where there are too few tokens.

        Args:
            tokens: that there are.
            needed: that there should be.
            documents: different ones that may be drawn.
            count: of all.
            cut: texts that were cut.
        """
        split = self.split
        long = f" ({cut} long texts are several each)" if cut else ""
        another = f", name another {split.field}" if count.others else ""
        return CorpusRefusedError(
            f"language {self.language} has {tokens} tokens where {needed} are needed for {split.purpose}: of its "
            f"{count.documents} documents{long} {documents} different ones are for {split.purpose} and {count.others} "
            f"{split.others}; give it more text{another}, or ask for fewer samples, fewer evaluation tokens or a "
            "shorter sequence length"
        )


def _draw(tokenizer: Any, text: _Text, sequences: int, length: int, check: Callable[[], None]) -> TextSample:
    """Pack documents, in the order of their keyed hashes, until there are enough tokens."""
    needed = sequences * length
    kept_bytes = max(needed * _BYTES_PER_TOKEN, 1)
    while True:
        reading, count = Reading(check), _Count()
        drawn, are_all = _first(text, kept_bytes, reading, count)
        written = text.writer.write(text.language, drawn, needed, check) if text.writer else None
        texts = drawn if written is None else written.texts
        packed = _pack(tokenizer, texts, needed, check)
        if len(packed.ids) >= needed or are_all:
            break
        kept_bytes *= 4  # tokens of many bytes: read again, and keep more
    if len(packed.ids) < needed or needed == 0:
        raise text.too_short(len(packed.ids), max(needed, length), len(drawn), count, reading.cut)
    ids, unknown = packed.ids[:needed], _unknown_ids(tokenizer)
    return TextSample(
        text.language,
        torch.tensor(ids).view(sequences, length),
        torch.tensor(packed.sizes[:needed]).view(sequences, length),
        len(packed.hashes),
        unknown_tokens=sum(token in unknown for token in ids),
        identified=identify(text.language, texts) if text.identifies else None,
        dropped=None if written is None else written.dropped,
        rows_without_text=reading.without_text,
        cut_texts=reading.cut,
        document_hashes=frozenset(packed.hashes),
    )


def _unknown_ids(tokenizer: Any) -> set[int]:
    """The token for unknown text, and those for single bytes, which sentencepiece's vocabularies call `<0x0A>`."""
    fallback = {token for name, token in tokenizer.get_vocab().items() if _BYTE_FALLBACK.fullmatch(name)}
    return fallback | ({tokenizer.unk_token_id} - {None, tokenizer.bos_token_id, tokenizer.eos_token_id})


def _special_ids(tokenizer: Any) -> frozenset[int]:
    """Tokens that stand for no text: what templates begin and end turns with."""
    return frozenset(token for token, added in tokenizer.added_tokens_decoder.items() if added.special) - {
        tokenizer.unk_token_id
    }


def _first(text: _Text, kept_bytes: int, reading: Reading, count: _Count) -> tuple[list[str], bool]:
    """The first documents by keyed hash, of `kept_bytes` together or a little more, and whether there are no others."""
    kept: dict[bytes, str] = {}
    last_first: list[tuple[int, bytes]] = []  # a heap: negated ranks
    left = max(_READ_FACTOR * kept_bytes, _READ_BYTES) if text.corpus.is_endless else math.inf
    total, are_all = 0, True
    for document in text.documents(reading, count):
        if left <= 0:
            return [kept[rank] for rank in sorted(kept)], False
        left -= len(document.encode())
        rank = hashlib.sha256(text.key + document_hash(document)).digest()
        if rank in kept:
            continue
        kept[rank] = document
        heapq.heappush(last_first, (-int.from_bytes(rank), rank))
        total += len(document.encode())
        while total - (size := len(kept[last_first[0][1]].encode())) >= kept_bytes:
            del kept[heapq.heappop(last_first)[1]]
            total -= size
            are_all = False
    return [kept[rank] for rank in sorted(kept)], are_all


@dataclass
class _Packed:
    """Token ids one after another, the bytes of text that each stands for, and hashes of the documents."""

    ids: list[int]
    sizes: list[int]
    hashes: set[bytes]


def _pack(tokenizer: Any, documents: Iterable[str], needed: int, check: Callable[[], None]) -> _Packed:
    """Tokenise documents until there are enough tokens."""
    packed = _Packed([], [], set())
    start = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    special = _special_ids(tokenizer)
    for batch in _batched(documents):
        check()
        encoded = tokenizer(batch, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        for text, ids, offsets in zip(batch, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            if len(packed.ids) >= needed:
                return packed
            packed.hashes.add(document_hash(text))
            sizes = token_sizes(text, offsets)
            if isinstance(text, Rendered):  # what begins and ends it is there, and stands for no text
                packed.ids += ids
                packed.sizes += [0 if token in special else size for token, size in zip(ids, sizes, strict=True)]
            else:
                packed.ids += start + ids + end
                packed.sizes += [0] * len(start) + sizes + [0] * len(end)
    return packed


def token_sizes(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """UTF-8 bytes of text that each token stands for; they add up to the bytes of the text up to the last token.

    Several tokens may share one character (byte-level vocabularies split it): the first of them takes its bytes.

    Args:
        text: what was tokenised.
        offsets: the characters [start, end) of each token, as a fast tokenizer reports them.
    """
    ends = [0]
    for character in text:
        ends.append(ends[-1] + len(character.encode()))
    sizes, reached = [], 0
    for _, end in offsets:
        sizes.append(max(0, ends[end] - reached))
        reached = max(reached, ends[end])
    return sizes


def _batched(documents: Iterable[str]) -> Iterable[list[str]]:
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
