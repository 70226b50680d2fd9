"""Self-generated calibration text: the dense model continues short prefixes of documents (Ji et al., 2410.17711).

What matters is how close calibration text is to what the model was trained on, and nothing is closer than its own text.
The first tokens of each document are taken, at most half of it; the model samples a continuation; and the share of
texts that the model itself finds least probable, by the perplexity of the continuation, is dropped. A corpus of a few
dozen sentences is enough: once all documents have been continued, they are continued again with different random
numbers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from secateur_service.calibration.packing import Framing
from secateur_service.calibration.sampling import Written
from secateur_service.calibration.tokenizing import tokenize

# The model's output depends on the batch size, which is therefore fixed.
BATCH_TEXTS = 16
# The maximum number of times that every document is continued.
_MOST_ROUNDS = 64
_LOGIT_ROWS = 256
CUT_CHARACTER = "\N{REPLACEMENT CHARACTER}"
"""What the bytes of a character cut off by the limit are decoded to."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; see `spec.GenerationSpec`."""

    prefix_tokens: int
    new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    dropped_share: float


def ends_of(model: Any, tokenizer: Any) -> list[int]:
    """The ids of the tokens that end a text: those that the model's generation settings name, else the tokenizer's."""
    ends = model.generation_config.eos_token_id
    ends = tokenizer.eos_token_id if ends is None else ends
    return [] if ends is None else list(ends) if isinstance(ends, list) else [ends]


@torch.no_grad()
def write_on(
    model: Any, prefixes: Sequence[Sequence[int]], configuration: GenerationConfig, check: Callable[[], None]
) -> list[list[int]]:
    """The token ids that a model adds to each of several texts, up to and without the first one that ends a text.

    The model's own generation settings are put aside: they would fill in what the given ones leave open.

    Args:
        model: a causal language model of transformers that is in memory as a whole, in evaluation mode.
        prefixes: token ids of the texts, which run as one batch.
        configuration: how tokens are chosen, with the ids that end a text and one for padding.
        check: called for every token; raises to stop.
    """
    device, padding = model.device, configuration.pad_token_id
    width = max(len(ids) for ids in prefixes)
    padded_BS = torch.tensor([[padding] * (width - len(ids)) + list(ids) for ids in prefixes], device=device)
    mask_BS = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prefixes], device=device)

    def stop(ids_BS: Tensor, _scores: object, **_: object) -> Tensor:
        check()
        return torch.zeros(len(ids_BS), dtype=torch.bool, device=ids_BS.device)

    own, model.generation_config = model.generation_config, configuration
    try:
        written_BS = model.generate(
            padded_BS, attention_mask=mask_BS, generation_config=configuration, stopping_criteria=[stop]
        )
    finally:
        model.generation_config = own
    ends = set(configuration.eos_token_id or ())
    return [list(takewhile(lambda token: token not in ends, ids[width:])) for ids in written_BS.tolist()]


@dataclass(frozen=True)
class _Text:
    """A generated text.

    Attributes:
        tokens: its number of tokens.
        nats: mean cross-entropy of the tokens that the model added.
    """

    text: str
    tokens: int
    nats: float


class SelfWriter:
    """Generates text with a model that is in memory as a whole.

    Args:
        model: a causal language model of transformers, in evaluation mode.
        tokenizer: its fast tokenizer.
        sampling: how tokens are drawn.
        seed: random seed; together with the language and the number of the batch it determines every text.
        on_progress: called with the tokens so far, the tokens needed, and the language.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        sampling: Sampling,
        seed: int,
        on_progress: Callable[[int, int, str], None] = lambda _done, _needed, _language: None,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._sampling = sampling
        self._seed = seed
        self._on_progress = on_progress
        self._start = list(Framing.of(tokenizer).beginning)
        self._ends = ends_of(model, tokenizer)

    def write(self, language: str, documents: Sequence[str], needed: int, check: Callable[[], None]) -> Written:
        """Texts with at least `needed` tokens together, without the improbable ones; none without documents.

        Args:
            language: language of the documents; part of the seed.
            documents: the documents to continue, in this order.
            needed: number of tokens.
            check: called for every token; raises to stop.
        """
        texts: list[_Text] = []
        kept: list[_Text] = []
        for number, prefixes in enumerate(self._batches(documents)):
            texts += self._go_on(prefixes, f"{self._seed}/{language}/{number}", check)
            kept = self._probable(texts)
            tokens = sum(text.tokens for text in kept)
            self._on_progress(min(tokens, needed), needed, language)
            if tokens >= needed:
                break
        return Written([text.text for text in kept], len(texts) - len(kept))

    def _batches(self, documents: Sequence[str]) -> Iterator[list[list[int]]]:
        """Batches of token ids to continue, round by round."""
        if not documents:
            return
        for _ in range(_MOST_ROUNDS):
            for first in range(0, len(documents), BATCH_TEXTS):
                batch = list(documents[first : first + BATCH_TEXTS])
                encoded = tokenize(self._tokenizer, batch)["input_ids"]
                yield [self._start + ids[: min(self._sampling.prefix_tokens, (len(ids) + 1) // 2)] for ids in encoded]

    def _go_on(self, prefixes: list[list[int]], seed: str, check: Callable[[], None]) -> list[_Text]:
        device = self._model.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:7]))
            written = write_on(self._model, prefixes, self._configuration(), check)
        texts = (self._text(prefix, added) for prefix, added in zip(prefixes, written, strict=True))
        return [text for text in texts if text is not None]

    def _configuration(self) -> GenerationConfig:
        return GenerationConfig(
            do_sample=True,
            max_new_tokens=self._sampling.new_tokens,
            temperature=self._sampling.temperature,
            top_p=self._sampling.top_p,
            top_k=self._sampling.top_k,
            repetition_penalty=self._sampling.repetition_penalty,
            eos_token_id=self._ends or None,
            pad_token_id=self._ends[0] if self._ends else 0,
        )

    @torch.no_grad()
    def _text(self, prefix: list[int], added: list[int]) -> _Text | None:
        """The text of a prefix and what was added to it; None if nothing was."""
        if not added:
            return None
        text = self._tokenizer.decode(prefix + added, skip_special_tokens=True).rstrip(CUT_CHARACTER)
        tokens = len(tokenize(self._tokenizer, [text])["input_ids"][0])
        return _Text(text, tokens, self._nats(prefix + added, len(prefix))) if text.strip() else None

    def _nats(self, ids: list[int], prefix_tokens: int) -> float:
        """Mean cross-entropy of the tokens after the prefix."""
        first = max(prefix_tokens, 1)
        ids_1S = torch.tensor([ids], device=self._model.device)
        # The last token predicts nothing; its position may be beyond the model's last.
        logits_SV = self._model(ids_1S[:, :-1], use_cache=False).logits[0, first - 1 :]
        targets_S = ids_1S[0, first:]
        total = 0.0
        for at in range(0, len(targets_S), _LOGIT_ROWS):
            rows = slice(at, at + _LOGIT_ROWS)
            total += float(torch.nn.functional.cross_entropy(logits_SV[rows].float(), targets_S[rows], reduction="sum"))
        return total / max(1, len(targets_S))

    def _probable(self, texts: Sequence[_Text]) -> list[_Text]:
        """All but the share with the highest perplexity, in the order of generation."""
        dropped = math.floor(len(texts) * self._sampling.dropped_share)
        gone = set(sorted(range(len(texts)), key=lambda at: texts[at].nats, reverse=True)[:dropped])
        return [text for at, text in enumerate(texts) if at not in gone]
