"""Has both models continue the same texts, after the pass: the dense model first, then the output as it was written.

A token takes every weight once, so that a model has to be in memory as a whole; never both are. The output is put
together from the shards of its blocks, which may have been moved to the store, and from what the dense model's files
have outside the blocks. The prompts are text, because the output may have other tokens.
"""

from __future__ import annotations

import gc
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from secateur_service.calibration.generation import CUT_CHARACTER, ends_of, write_on
from secateur_service.calibration.packing import Framing
from secateur_service.calibration.sampling import TextSample
from secateur_service.calibration.tokenizing import tokenize, tokenizer_failures
from secateur_service.evaluation.continuations import Added, ContinuedLanguage
from secateur_service.models.building import assemble
from secateur_service.models.checkpoint import Checkpoint
from secateur_service.models.safetensors import TensorInfo, read_header
from secateur_service.models.tensors import Reader, TensorReader
from secateur_service.models.tokenizer import load_tokenizer
from secateur_service.pipeline.meter import Meter
from secateur_service.pipeline.observer import JobObserver
from secateur_service.pipeline.shards import Shards
from secateur_service.records.blocks import BlockRecord
from secateur_service.sizing.continuations import BATCH_TEXTS, Continuing
from secateur_service.spec import PruneSpec

_PIECE_BYTES = 64 << 20
# Documents that are looked at for each that is taken, so that few are short.
_LOOKED_AT = 16
_JOINERS = "\u200c\u200d"  # within words of Persian and of Indian languages

_Piece = tuple[str, int, Tensor]


@dataclass(frozen=True)
class StoredModel:
    """A model, and where its tensors are.

    Attributes:
        checkpoint: the model.
        reader: reads its tensors.
        shards: where its blocks are instead, if they were written by the job.
        blocks: these blocks.
    """

    checkpoint: Checkpoint
    reader: Reader
    shards: Shards | None = None
    blocks: Sequence[BlockRecord] = ()

    def pieces(self, meter: Meter) -> Iterator[_Piece]:
        """All tensors that text needs, some rows at a time: the name, the first row's number, and the rows."""
        if self.shards is None:
            yield from _pieces(self.reader, self.checkpoint.of_text)
            return
        beside = self.checkpoint.beside
        yield from _pieces(self.reader, [info for info in self.checkpoint.other_tensors() if info.name not in beside])
        for record in self.blocks:
            yield from _pieces(TensorReader(), read_header(self.shards.fetch(record)).values())
            self.shards.move(record, meter.check)


class Continuer:
    """Continues the beginnings of evaluation documents.

    Args:
        spec: the resolved specification.
        device: where the models compute.
        dtype: type of the weights while computing.
        observer: is told how far it is, and may stop the job.
        meter: counts the work.
    """

    def __init__(
        self, spec: PruneSpec, device: torch.device, dtype: torch.dtype, observer: JobObserver, meter: Meter
    ) -> None:
        self._spec = spec
        self._device = device
        self._dtype = dtype
        self._observer = observer
        self._meter = meter

    def plan(self, *models: Checkpoint) -> None:
        """Announce the work with each model."""
        for checkpoint in models:
            self._meter.plan("package", sum(info.size_bytes for info in checkpoint.of_text))
            self._meter.plan("generate", self._work(checkpoint).moved_bytes)

    def run(
        self, samples: Mapping[str, TextSample], dense: StoredModel, output: StoredModel
    ) -> list[ContinuedLanguage]:
        """What both models add to the same texts, by language; nothing, with a warning, if the device has no room.

        Args:
            samples: the evaluation text by language.
            dense: the dense model.
            output: the model that the job wrote.

        Raises:
            ModelRefusedError: a model or its tokenizer cannot be used.
            TransientError: a finished block is gone or damaged.
            CancelledError, PreemptedError, FencedError: raised by the observer.
        """
        count, work = self._spec.evaluation.continuations or 0, self._work(dense.checkpoint)
        tokenizer = load_tokenizer(dense.checkpoint.tokenizer_folder)
        prompts = {name: prompts_of(sample, tokenizer, count, work.prompt) for name, sample in samples.items()}
        flat = [prompt for of_language in prompts.values() for prompt in of_language]
        if not flat:
            return []
        try:
            before = iter(self._continue(dense, flat, "dense"))
            after = iter(self._continue(output, flat, "pruned"))
        except torch.OutOfMemoryError:
            problem = "evaluation.continuations: the device has no room for the whole model, so nothing is continued"
            self._observer.log("warning", problem)
            return []
        return [
            ContinuedLanguage.of(name, texts, [next(before) for _ in texts], [next(after) for _ in texts])
            for name, texts in prompts.items()
            if texts
        ]

    def _work(self, checkpoint: Checkpoint) -> Continuing:
        return Continuing.of(checkpoint, self._spec, on_device=self._device.type != "cpu")

    def _continue(self, model: StoredModel, prompts: Sequence[str], side: str) -> list[Added]:
        work, done = self._work(model.checkpoint), 0.0

        def counted() -> Iterator[_Piece]:
            self._meter.lap()
            for piece in model.pieces(self._meter):
                yield piece
                self._meter.tick("package", piece[2].nbytes)

        def tick() -> None:
            nonlocal done
            self._meter.tick("generate", work.weights_bytes)
            done += work.weights_bytes

        tokenizer = load_tokenizer(model.checkpoint.tokenizer_folder)
        whole = assemble(model.checkpoint, self._device, self._dtype, counted())
        self._meter.lap()
        writer = _Writer(whole, tokenizer, work.new, model.checkpoint.max_sequence_length)
        added: list[Added] = []
        for first in range(0, len(prompts), BATCH_TEXTS):
            added += writer.write(prompts[first : first + BATCH_TEXTS], tick)
        self._meter.skip("generate", max(0.0, work.moved_bytes - done))  # texts that ended early
        self._observer.log("info", "texts continued", model=side, texts=len(added))
        del whole, writer
        gc.collect()  # before the other model takes its place
        return added


def prompts_of(sample: TextSample, tokenizer: Any, count: int, tokens: int) -> list[str]:
    """The beginnings of the first documents, at most half of each, so that there is text to be continued.

    Documents that are too short for so many tokens come last. A prompt ends with a word where blanks say what one is.

    Args:
        sample: evaluation text of a language, which is the same in every job with this corpus.
        tokenizer: of the dense model.
        count: how many; fewer if there are fewer documents.
        tokens: the most tokens of each.
    """
    documents = list(sample.passages.documents[: _LOOKED_AT * count]) if sample.passages else []
    if not documents:
        return []
    encoded = tokenize(tokenizer, documents, return_offsets_mapping=True)["offset_mapping"]
    found = []
    for document, offsets in zip(documents, encoded, strict=True):
        taken = min(tokens, (len(offsets) + 1) // 2)
        prompt = _whole_words(document, offsets[taken - 1][1]) if taken else ""
        if prompt:
            found.append((taken < tokens, prompt))
    return [prompt for _, prompt in sorted(found, key=lambda entry: entry[0])[:count]]


def _whole_words(document: str, end: int) -> str:
    """The text up to a place, without a word that goes on there, unless that is most of it."""
    head = document[:end].rstrip()
    if end < len(document) and all(map(_is_of_word, document[end - 1 : end + 1])):
        *before, last = head.rsplit(maxsplit=1)
        head = before[0] if before and len(last) < len(head) / 2 else head
    return head


def _is_of_word(character: str) -> bool:
    """Whether it is within words: letters, digits, the marks on them, and what joins them or keeps them apart."""
    return character.isalnum() or unicodedata.category(character)[0] == "M" or character in _JOINERS


class _Writer:
    """Writes on with one model, each time with the token that it finds most probable."""

    def __init__(self, model: Any, tokenizer: Any, new: int, longest: int | None) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._beginning = list(Framing.of(tokenizer).beginning)
        self._room = longest - new if longest is not None else None
        ends = ends_of(model, tokenizer)
        self._configuration = GenerationConfig(
            do_sample=False,
            max_new_tokens=new,
            use_cache=True,
            eos_token_id=ends or None,
            pad_token_id=ends[0] if ends else 0,
        )

    def write(self, prompts: Sequence[str], check: Callable[[], None]) -> list[Added]:
        """What is added to each prompt, as one batch; `check` is called for every token, and raises to stop."""
        prefixes = [self._begun(ids) for ids in tokenize(self._tokenizer, list(prompts))["input_ids"]]
        written = write_on(self._model, prefixes, self._configuration, check)
        return [Added(self._text(prefix, ids), tuple(ids)) for prefix, ids in zip(prefixes, written, strict=True)]

    def _begun(self, ids: list[int]) -> list[int]:
        """A prompt as the tokenizer begins a text, unless its template does; what does not fit is cut on the left."""
        start = self._beginning
        own = ids[len(start) :] if ids[: len(start)] == start else ids
        room = len(own) if self._room is None else max(1, self._room - len(start))
        return start + own[-room:]

    def _text(self, prefix: list[int], added: list[int]) -> str:
        with tokenizer_failures():
            before, whole, alone = (
                self._tokenizer.decode(ids, skip_special_tokens=True) for ids in (prefix, prefix + added, added)
            )
        # Decoded alone, some vocabularies lose the blank that a word begins with.
        text: str = whole[len(before) :] if whole.startswith(before) else alone
        return text.rstrip(CUT_CHARACTER)


def _pieces(reader: Reader, infos: Iterable[TensorInfo]) -> Iterator[_Piece]:
    for info in infos:
        rows = max(1, _PIECE_BYTES * info.rows // max(1, info.size_bytes))
        for first in range(0, info.rows, rows):
            yield info.name, first, reader.read_rows(info, first, min(first + rows, info.rows))
