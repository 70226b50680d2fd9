"""From documents to token sequences: shuffled with a seed, packed, the same number of tokens for every language.

Documents are packed one after another, each as the tokenizer's beginning-of-text token, its text and the
end-of-text token (where the tokenizer has them), and cut into sequences of equal length. So languages with short
documents lose nothing. No document serves both calibration and evaluation: where one corpus serves both, a hash of
the document decides; where two do, calibration leaves out what evaluation took.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secateur_service.calibration.corpora import Corpus, CorpusRefusedError

# Of every EVALUATION_SHARE documents of a corpus that serves both purposes, one goes to evaluation.
EVALUATION_SHARE = 5
_BATCH_DOCUMENTS = 512


@dataclass(frozen=True)
class TextSample:
    """The sequences drawn for one language.

    Attributes:
        tokens: N×S token ids.
        token_bytes: N×S, the UTF-8 bytes of text that each token stands for; 0 for special tokens.
        documents: number of documents that the sequences touch.
        document_hashes: hashes of these documents.
    """

    language: str
    tokens: Tensor
    token_bytes: Tensor
    documents: int
    document_hashes: frozenset[bytes]

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
        seed: of the order in which calibration documents are drawn. Evaluation documents keep the file's order.
        check: called between languages; raises to stop.

    Returns:
        Calibration and evaluation samples by language.

    Raises:
        CorpusRefusedError: a language has too little text, or none; the message says how much there is.
    """
    shared = calibration.folder.resolve() == evaluation.folder.resolve()
    held_out: dict[str, TextSample] = {}
    for language in evaluation_languages:
        check()
        documents: Iterable[str] = evaluation.documents(language)
        if shared:
            documents = (text for text in documents if for_evaluation(text))
        count = evaluation_tokens // sequence_length
        held_out[language] = _draw(tokenizer, language, documents, count, sequence_length)
    drawn: dict[str, TextSample] = {}
    for language in languages:
        check()
        used = held_out[language].document_hashes if language in held_out else frozenset()
        candidates = [
            text
            for text in calibration.documents(language)
            if not (for_evaluation(text) if shared else document_hash(text) in used)
        ]
        random.Random(f"{seed}/{language}").shuffle(candidates)  # noqa: S311 - reproducible, not secret
        drawn[language] = _draw(tokenizer, language, candidates, sequences, sequence_length)
    return drawn, held_out


def document_hash(text: str) -> bytes:
    """Identity of a document."""
    return hashlib.sha256(text.encode()).digest()[:16]


def for_evaluation(text: str) -> bool:
    """Whether a document of a corpus that serves both purposes belongs to evaluation."""
    return document_hash(text)[0] % EVALUATION_SHARE == 0


def _draw(tokenizer: Any, language: str, documents: Iterable[str], sequences: int, length: int) -> TextSample:
    """Pack documents until there are enough tokens."""
    needed = sequences * length
    ids: list[int] = []
    sizes: list[int] = []
    hashes = set()
    start = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    for batch in _batched(documents):
        encoded = tokenizer(batch, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        for text, document_ids, offsets in zip(batch, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            if len(ids) >= needed:
                break
            hashes.add(document_hash(text))
            ids += start + document_ids + end
            sizes += [0] * len(start) + token_sizes(text, offsets) + [0] * len(end)
        if len(ids) >= needed:
            break
    if len(ids) < needed or needed == 0:
        raise CorpusRefusedError(
            f"language {language} has {len(ids)} tokens where {max(needed, length)} are needed; give it more text, or "
            "ask for fewer samples, fewer evaluation tokens or a shorter sequence length"
        )
    return TextSample(
        language,
        torch.tensor(ids[:needed]).view(sequences, length),
        torch.tensor(sizes[:needed]).view(sequences, length),
        len(hashes),
        frozenset(hashes),
    )


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
    for document in documents:
        batch.append(document)
        if len(batch) == _BATCH_DOCUMENTS:
            yield batch
            batch = []
    if batch:
        yield batch
