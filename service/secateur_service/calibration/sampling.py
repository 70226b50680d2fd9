"""From documents to token sequences: shuffled with a seed, packed, the same number of tokens for every language.

Documents are ordered by their hash, keyed by the seed: as good as a shuffle, and independent of the names and order of
the files. While the corpus is read, only as many documents as are needed are kept, however large it is; a duplicate
document counts once. Of an endless corpus, only a part is read, several times as large as needed, starting where the
seed says. Long texts are split into several documents (`documents`).

They are packed into windows of equal length (`packing`), so that languages with short documents lose nothing. No
document is used for both calibration and evaluation: if one corpus serves both, a hash of the document decides; if
there are two, calibration skips what evaluation used.
"""

from __future__ import annotations

import hashlib
import heapq
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import structlog
import torch
from torch import Tensor

from secateur_service.calibration.corpora import Corpus
from secateur_service.calibration.demand import Demand, Lack, evaluation_demand, too_little
from secateur_service.calibration.documents import CorpusRefusedError, Reading, TooLittleTextError
from secateur_service.calibration.identification import Identified, identify
from secateur_service.calibration.packing import Framing, Kind, Place, Separator, Windows
from secateur_service.calibration.packing import pack as _pack
from secateur_service.calibration.splitting import document_hash, for_evaluation

_log = structlog.get_logger(__name__)

# More than tokens have in most languages and vocabularies; if they have more, the corpus is read again.
_BYTES_PER_TOKEN = 16
# How much of an endless corpus is read, as a multiple of what is kept, and the minimum.
_READ_FACTOR = 8
_READ_BYTES = 8 << 20
_BYTE_FALLBACK = re.compile("<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class Passages:
    """The text of sequences, for use with another tokenizer.

    Attributes:
        documents: those that the sequences touch, in order.
        spans: where each sequence begins and ends in them.
    """

    documents: tuple[str, ...]
    spans: tuple[tuple[Place, Place], ...]


@dataclass(frozen=True)
class TextSample:
    """The sequences drawn for one language.

    Attributes:
        tokens: N×S token ids.
        token_bytes: N×S, the UTF-8 bytes of text that each token stands for.
        is_text: N×S, whether a token stands for text; the others are context and count in no figure.
        documents: number of documents that the sequences touch.
        unknown_tokens: tokens for text that the vocabulary lacks: unknown tokens, and single bytes of a vocabulary
            that falls back to them.
        identified: what language the documents seem to be in; None if not requested, or if it cannot be identified.
        dropped: how many generated texts were dropped; None where the corpus itself is the text.
        rows_without_text: rows of the corpus that were skipped because they have no text.
        cut_texts: texts of the corpus that were cut into several documents because they are long.
        document_hashes: hashes of the documents, kept while other text is drawn that must not overlap.
        passages: the text of the sequences; None where they were not made from text.
        document_of: N×S, the number of the document that a token is from; None where they were not made from text.
    """

    language: str
    tokens: Tensor
    token_bytes: Tensor
    is_text: Tensor
    documents: int
    unknown_tokens: int = 0
    identified: Identified | None = None
    dropped: int | None = None
    rows_without_text: int = 0
    cut_texts: int = 0
    document_hashes: frozenset[bytes] = frozenset()
    passages: Passages | None = None
    document_of: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens in all."""
        return self.tokens.numel()

    @property
    def text_tokens(self) -> int:
        """Tokens that stand for text."""
        return int(self.is_text.sum())

    @property
    def num_bytes(self) -> int:
        """Bytes of text in all."""
        return int(self.token_bytes.sum())

    def digest(self) -> str:
        """SHA-256 of the token ids."""
        return hashlib.sha256(self.tokens.numpy().astype("<i8").tobytes()).hexdigest()


@dataclass(frozen=True)
class Written:
    """Texts that a model generated, and how many others were dropped."""

    texts: list[str]
    dropped: int


class Writer(Protocol):
    """Makes calibration text out of documents; `generation.SelfWriter` is one."""

    def write(self, language: str, documents: Sequence[str], needed: int, check: Callable[[], None]) -> Written:
        """Texts of at least `needed` tokens together, as far as the documents allow."""


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
    separator: Separator = "newline",
    writer: Writer | None = None,
    identifies: bool = False,
    least_sequences: int = 1,
    least_evaluation_tokens: int | None = None,
    enough_documents: int | None = None,
) -> tuple[dict[str, TextSample], dict[str, TextSample]]:
    """Draw the calibration and the evaluation text.

    Args:
        tokenizer: a fast tokenizer of transformers.
        calibration: corpus of the calibration text.
        evaluation: corpus of the evaluation text; may be the same.
        languages: languages of the mix.
        evaluation_languages: languages of the evaluation.
        sequences: calibration sequences per language.
        evaluation_tokens: tokens per evaluation language, or the most; whole sequences are taken.
        sequence_length: tokens per sequence, S.
        seed: decides the order in which calibration documents are drawn; evaluation documents are always the same.
        check: called often; raises to stop.
        separator: what separates two documents of a sequence.
        writer: makes the calibration text from the drawn documents; None where they are the text.
        identifies: whether to guess the language of the text.
        least_sequences: what is proposed where there is too little text has at least so many per language.
        least_evaluation_tokens: tokens per evaluation language that are enough if there are no more, or with enough
            documents; by default `evaluation_tokens`.
        enough_documents: documents per evaluation language after which no more sequences are taken; by default the
            number of documents does not matter.

    Returns:
        Calibration and evaluation samples by language.

    Raises:
        TooLittleTextError: languages have too little text; the message says how much each of them has.
        CorpusRefusedError: a language has no text, or it cannot be read.
    """
    shared = calibration.identity == evaluation.identity
    fitted = Demand("calibration", len(languages), sequences, sequence_length, least_sequences)
    least_tokens = evaluation_tokens if least_evaluation_tokens is None else least_evaluation_tokens
    scored = evaluation_demand(evaluation_tokens, least_tokens, len(evaluation_languages), sequence_length)
    most = evaluation_tokens // sequence_length
    short: dict[Demand, list[_ShortError]] = {fitted: [], scored: []}
    held_out: dict[str, TextSample] = {}
    for language in evaluation_languages:
        text = _Text(
            evaluation,
            language,
            0,
            b"",
            lambda document: not shared or for_evaluation(document),
            identifies,
            separator,
            _Split("evaluation", "for calibration (a hash of each decides)"),
        )
        try:
            sample = _draw(tokenizer, text, most, sequence_length, check, _Enough(scored.sequences, enough_documents))
        except _ShortError as error:
            short[scored].append(error)
            continue
        if not sample.token_bytes[:, 1:][sample.is_text[:, 1:]].any():
            raise CorpusRefusedError(
                f"language {language} has no token of text to be scored in its evaluation windows; use a longer "
                "sequence length, or text with more of it between what the template adds"
            )
        held_out[language] = sample
    if writer is not None:  # it takes long
        _require(short)
    drawn: dict[str, TextSample] = {}
    for language in languages:
        used = held_out[language].document_hashes if language in held_out else frozenset()

        def is_free(document: str, used: frozenset[bytes] = used) -> bool:
            return not for_evaluation(document) if shared else document_hash(document) not in used

        why = "for evaluation (a hash of each decides)" if shared else "left out because evaluation took them"
        split = _Split("calibration", why)
        key = f"{seed}/{language}".encode()
        text = _Text(calibration, language, seed, key, is_free, identifies, separator, split, writer)
        try:
            drawn[language] = _draw(tokenizer, text, sequences, sequence_length, check)
        except _ShortError as error:
            short[fitted].append(error)
    _require(short)
    return drawn, held_out


def again_tokenised(
    sample: TextSample,
    tokenizer: Any,
    *,
    pads: bool,
    check: Callable[[], None],
    separator: Separator = "newline",
    longest: int | None = None,
) -> TextSample:
    """The same text in the tokens of another tokenizer.

    Args:
        sample: drawn from text.
        tokenizer: a fast tokenizer of transformers.
        pads: whether each sequence stands for the same text as before, padded to the length of the longest; otherwise
            the text is divided again into full sequences of the same length.
        check: called often; raises to stop.
        separator: what separates two documents of a sequence.
        longest: the most tokens of a sequence; longer ones are cut at their end.

    Raises:
        CorpusRefusedError: the text does not fill one sequence.
    """
    assert sample.passages is not None
    packed = _pack(tokenizer, sample.passages.documents, sys.maxsize, check, separator)
    count, length = sample.tokens.shape
    windows = packed.windows_between(sample.passages.spans) if pads else packed.windows(count, length)
    while windows is None and count:
        count -= 1
        windows = packed.windows(count, length)
    if windows is None or not count:
        raise CorpusRefusedError(f"language {sample.language} has too little text for a sequence of {length} tokens")
    return replace(
        sample,
        tokens=windows.tokens[:, :longest].contiguous(),
        token_bytes=windows.token_bytes[:, :longest].contiguous(),
        is_text=windows.is_text[:, :longest].contiguous(),
        document_of=windows.document_of[:, :longest].contiguous(),
        unknown_tokens=_unknown(tokenizer, windows),
        passages=replace(sample.passages, spans=windows.spans),
    )


@dataclass(frozen=True)
class _Split:
    """Which part of a corpus a purpose gets, for messages.

    Attributes:
        purpose: calibration or evaluation.
        others: what happens to the other documents.
    """

    purpose: str
    others: str


@dataclass
class _Count:
    """How many documents one reading found, and how many of them were not accepted."""

    documents: int = 0
    others: int = 0


@dataclass(frozen=True)
class _Text:
    """The documents of one language that may be drawn.

    Attributes:
        seed: decides where to start reading an endless corpus.
        key: key of the hash that orders the documents.
        accepts: whether a document may be drawn.
        identifies: whether to guess the language of what is drawn.
        separator: what separates two documents.
        split: why a document may not be drawn.
        writer: makes the text from the documents; None where they are the text.
    """

    corpus: Corpus
    language: str
    seed: int
    key: bytes
    accepts: Callable[[str], bool]
    identifies: bool
    separator: Separator
    split: _Split
    writer: Writer | None = None

    def documents(self, reading: Reading, count: _Count) -> Iterator[str]:
        for document in self.corpus.documents(self.language, self.seed, reading):
            count.documents += 1
            if self.accepts(document):
                yield document
            else:
                count.others += 1

    def too_short(self, tokens: int, needed: int, documents: int, count: _Count, cut: int) -> _ShortError:
        """The error for too few tokens.

        Args:
            tokens: number of tokens found.
            needed: number of tokens needed.
            documents: number of different documents that may be drawn.
            count: counts of all documents.
            cut: number of texts that were cut.
        """
        split = self.split
        long = f" ({cut} long texts are several each)" if cut else ""
        _log.info(
            f"too little text of {self.language} for {split.purpose}; documents in all: {count.documents}{long}, "
            f"different ones for {split.purpose}: {documents}, {split.others}: {count.others} with repetitions"
        )
        return _ShortError(self.language, tokens, needed, shares=count.others > 0)


class _ShortError(CorpusRefusedError):
    """One language has too few tokens; `shares` tells whether some documents are kept for the other purpose."""

    def __init__(self, language: str, tokens: int, needed: int, *, shares: bool) -> None:
        super().__init__(f"{language}: {tokens:,} of {needed:,} tokens")
        self.language = language
        self.tokens = tokens
        self.shares = shares


def _require(short: Mapping[Demand, Sequence[_ShortError]]) -> None:
    """Refuse all languages that have too little text at once, with values that they have enough for."""
    lacks = []
    for demand, errors in short.items():
        if errors:
            found = {error.language: error.tokens for error in errors}
            lacks.append(Lack(demand, found, min(found.values()), split=any(error.shares for error in errors)))
    if lacks:
        raise TooLittleTextError(". ".join(f"{field}: {told}" for field, told in too_little(lacks).items()))


@dataclass(frozen=True)
class _Enough:
    """When fewer sequences than the most will do.

    Attributes:
        sequences: so many are needed.
        documents: that these touch, after which no more sequences are taken; None to take all.
    """

    sequences: int
    documents: int | None

    def of(self, windows: Windows) -> Windows:
        """The first windows, as far as they are needed."""
        if self.documents is None:
            return windows
        touched = windows.document_of.amax(1) + 1
        lacking = int((touched < self.documents).sum())
        return windows.first(max(self.sequences, lacking + 1))


def _draw(
    tokenizer: Any,
    text: _Text,
    sequences: int,
    length: int,
    check: Callable[[], None],
    enough: _Enough | None = None,
) -> TextSample:
    """Pack documents, in the order of their keyed hashes, until there are enough tokens."""
    enough = enough or _Enough(sequences, None)
    needed = sequences * length
    # Extra tokens, because separators that would begin a window are dropped.
    separators = sequences * len(Framing.of(tokenizer, text.separator).separator)
    kept_bytes = max(needed * _BYTES_PER_TOKEN, 1)
    while True:
        reading, count = Reading(check), _Count()
        drawn, are_all = _first(text, kept_bytes, reading, count)
        written = text.writer.write(text.language, drawn, needed, check) if text.writer else None
        texts = drawn if written is None else written.texts
        packed = _pack(tokenizer, texts, needed + separators, check, text.separator)
        windows = packed.windows(sequences, length)
        if windows is not None or are_all:
            break
        kept_bytes *= 4  # tokens of many bytes: read again, and keep more
    windows = windows or packed.windows(sequences, length, enough.sequences)
    if windows is None or needed == 0:
        tokens = sum(kind is not Kind.SEPARATOR for kind in packed.kinds)
        raise text.too_short(tokens, max(enough.sequences * length, length), len(drawn), count, reading.cut)
    windows = enough.of(windows)
    touched = packed.documents[: windows.spans[-1][1][0] + 1]
    hashes = frozenset(document_hash(document) for document in touched)
    return TextSample(
        text.language,
        windows.tokens,
        windows.token_bytes,
        windows.is_text,
        len(hashes),
        unknown_tokens=_unknown(tokenizer, windows),
        identified=identify(text.language, texts) if text.identifies else None,
        dropped=None if written is None else written.dropped,
        rows_without_text=reading.without_text,
        cut_texts=reading.cut,
        document_hashes=hashes,
        passages=Passages(tuple(touched), windows.spans),
        document_of=windows.document_of,
    )


def _unknown(tokenizer: Any, windows: Windows) -> int:
    """How many tokens stand for text that the vocabulary lacks."""
    unknown = torch.tensor(sorted(_unknown_ids(tokenizer)), dtype=torch.long)
    return int((torch.isin(windows.tokens, unknown) & windows.is_text).sum())


def _unknown_ids(tokenizer: Any) -> set[int]:
    """The token for unknown text, and those for single bytes, such as `<0x0A>` in sentencepiece's vocabularies."""
    fallback = {token for name, token in tokenizer.get_vocab().items() if _BYTE_FALLBACK.fullmatch(name)}
    return fallback | ({tokenizer.unk_token_id} - {None, tokenizer.bos_token_id, tokenizer.eos_token_id})


def _first(text: _Text, kept_bytes: int, reading: Reading, count: _Count) -> tuple[list[str], bool]:
    """The first documents by keyed hash, of `kept_bytes` or a little more in all, and whether there are no others."""
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
