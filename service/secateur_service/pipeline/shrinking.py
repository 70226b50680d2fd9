"""Decides which parts of the model are written, from what a job's specification asks for and its text shows.

Token counts need neither the model's weights nor much time: the calibration corpus is tokenised once more, further
than the calibration itself reads, but without the documents of the evaluation. The outcome is kept in the work
directory, so that a later attempt writes the same model even if the corpus is no longer there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from secateur_service.calibration.corpora import Corpus, CorpusRefusedError, Reading
from secateur_service.calibration.packing import Framing
from secateur_service.calibration.sampling import TextSample, document_hash, for_evaluation
from secateur_service.calibration.token_frequencies import TokenCounts, count_tokens, token_frequencies
from secateur_service.calibration.tokenizing import tokenize
from secateur_service.durable import file_digest, write_durably
from secateur_service.errors import PermanentError
from secateur_service.models.checkpoint import Checkpoint, ModelRefusedError
from secateur_service.models.companions import Companions
from secateur_service.models.mandatory_tokens import mandatory_tokens
from secateur_service.models.plan import OutputPlan
from secateur_service.models.token_graph import TokenGraph
from secateur_service.models.tokenizer import load_tokenizer
from secateur_service.models.trimmed_tokenizer import trim_files
from secateur_service.pipeline.job_text import JobText, calibration_corpus
from secateur_service.pipeline.narrowing import narrowed_sizes
from secateur_service.pipeline.observer import JobObserver
from secateur_service.pruning.structured.vocabulary import ROWS_MULTIPLE, choose_rows
from secateur_service.records.blocks import BlockRecord
from secateur_service.sources import Sources
from secateur_service.spec import PruneSpec, VocabularySpec

COUNTED_BYTES = 32 << 20
"""Text of each language that is counted at most."""
_COUNTED_OF_PRESETS = 8 << 20  # which are streamed
_BATCH_DOCUMENTS = 256
_FORMAT = 1
_HEAD = ("lm_head.weight", "lm_head.bias")


@dataclass(frozen=True)
class Shrinkage:
    """Which parts of a model are written, and what that is expected to cost.

    Attributes:
        plan: the parts.
        extra_tokens: by kept language, the share of further tokens that its text is expected to take.
        coverage: by evaluation language, the share of its evaluation text's tokens that are kept.
        counted_bytes: by kept language, the bytes of text whose tokens were counted.
    """

    plan: OutputPlan
    extra_tokens: Mapping[str, float] = field(default_factory=dict)
    coverage: Mapping[str, float] = field(default_factory=dict)
    counted_bytes: Mapping[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> tuple[int, ...] | None:
        """Ids of the rows of the vocabulary that stay; None where all do."""
        kept = self.plan.kept.get(self.plan.dense.embedding_name, {}).get(0)
        return None if kept is None else tuple(kept)

    def to_bytes(self, blocks: Sequence[BlockRecord]) -> bytes:
        """The published form, plan.json: what of the dense model is kept, as ranges of indices.

        Args:
            blocks: all finished blocks.
        """
        vocabulary = None
        if self.rows is not None:
            vocabulary = {
                "kept": _ranges(self.rows),
                "extra_tokens": dict(self.extra_tokens),
                "counted_bytes": dict(self.counted_bytes),
            }
        content = {
            "format": _FORMAT,
            "model": {"rows": _rows_of(self.plan.dense), "parameters": self.plan.dense.parameters},
            "vocabulary": vocabulary,
            "feed_forward": [
                {
                    "block": record.index,
                    "kept": _ranges(record.feed_forward.kept),
                    "channels": record.feed_forward.before,
                    "errors": dict(record.feed_forward.errors),
                }
                for record in blocks
                if record.feed_forward
            ],
        }
        return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


class Shrinker:
    """Decides which parts of a model are written.

    Args:
        spec: the resolved specification.
        checkpoint: the dense model.
        companions: the files that go with it.
        text: calibration and evaluation text.
        sources: where the calibration corpus may be.
        observer: receives the progress and may stop the job.
        workdir: where the outcome is kept.
    """

    def __init__(
        self,
        spec: PruneSpec,
        checkpoint: Checkpoint,
        companions: Companions,
        text: JobText,
        sources: Sources,
        observer: JobObserver,
        workdir: Path,
    ) -> None:
        self._spec = spec
        self._checkpoint = checkpoint
        self._companions = companions
        self._text = text
        self._sources = sources
        self._observer = observer
        self._workdir = workdir
        self._rows_before = _rows_of(checkpoint)

    def shrink(self) -> Shrinkage:
        """Decide what is written.

        Raises:
            ModelRefusedError: the vocabulary cannot be trimmed.
            CorpusRefusedError: the corpus cannot be read.
            PermanentError: more rows have to be kept than were asked for.
        """
        asked, checkpoint = self._spec.shrink, self._checkpoint
        shrinkage = Shrinkage(OutputPlan.identity(checkpoint))
        if asked and asked.vocabulary:
            shrinkage = self._trimmed(asked.vocabulary)
        layout = checkpoint.architecture.feed_forward
        if asked and asked.feed_forward:
            assert layout is not None
            channels = asked.feed_forward.channels_of(checkpoint.linear_weight(0, layout.output).shape[1])
            config = {**shrinkage.plan.config, layout.size: channels}
            plan = replace(shrinkage.plan, config=config, narrowed=narrowed_sizes(checkpoint, channels))
            shrinkage = replace(shrinkage, plan=plan)
        if not shrinkage.plan.is_identity:
            after, before = shrinkage.plan.output().parameters, checkpoint.parameters
            self._observer.log("info", "the model becomes smaller", parameters=after, of_parameters=before)
        return shrinkage

    def _trimmed(self, asked: VocabularySpec) -> Shrinkage:
        """Only the rows of the vocabulary that the kept languages need."""
        checkpoint, companions, observer = self._checkpoint, self._companions, self._observer
        path, key = self._workdir / "rows.json", _key(self._spec, checkpoint)
        found = _recall(path, key)
        if found is None:
            found = self._choose(asked)
            write_durably(path, json.dumps({"key": key, **found}).encode())
        rows = tuple(found["kept"])
        identity = OutputPlan.identity(checkpoint)
        if len(rows) == self._rows_before:
            observer.log("warning", "no row of the vocabulary can go within extra_tokens; it stays as it is")
            return Shrinkage(identity)
        trimmed = trim_files(companions.folder, companions.names, checkpoint.config, rows, self._rows_before)
        for name, reason in trimmed.left_out.items():
            observer.log("info", f"left out: {reason}", files=name)
        told = {f"extra_tokens_{language}": round(share, 6) for language, share in found["extra_tokens"].items()}
        observer.log("info", "vocabulary trimmed", rows=len(rows), of_rows=self._rows_before, **told)
        heads = [info.name for info in checkpoint.other_tensors() if info.name.endswith(_HEAD)]
        plan = replace(
            identity,
            config=trimmed.config,
            kept={name: {0: rows} for name in (checkpoint.embedding_name, checkpoint.head_name, *heads)},
            files=trimmed.files,
            left_out=trimmed.left_out,
        )
        coverage = {name: _coverage(sample, rows) for name, sample in self._text.evaluation.items()}
        return Shrinkage(plan, found["extra_tokens"], coverage, found["counted_bytes"])

    def _choose(self, asked: VocabularySpec) -> dict[str, Any]:
        checkpoint, companions, check = self._checkpoint, self._companions, self._observer.check
        tokenizer = load_tokenizer(checkpoint.tokenizer_folder)
        graph = TokenGraph.open(checkpoint.tokenizer_folder)
        counts = self._count(tokenizer)
        own = graph.tokens.keys() - graph.added.keys()
        texts = [graph.text(number) if number in own else "" for number in range(self._rows_before)]
        frequencies = {language: token_frequencies(found, texts) for language, found in counts.items()}
        mandatory = mandatory_tokens(
            tokenizer, graph, companions.folder, companions.names, checkpoint.config, asked.keep_texts
        )
        framing = Framing.of(tokenizer, self._spec.calibration.document_separator)
        mandatory |= {*framing.beginning, *framing.separator, *tokenizer("", verbose=False)["input_ids"]}
        # Rows without a token, with which some vocabularies are padded, go unless a configuration refers to one.
        parents = {number: pieces for number, pieces in graph.parents(check).items() if number < self._rows_before}
        parents |= {number: () for number in mandatory if number < self._rows_before and number not in parents}
        chosen = choose_rows(
            frequencies, parents, mandatory, extra_tokens=asked.extra_tokens, rows=asked.rows, check=check
        )
        if asked.rows is not None and len(chosen.kept) > -(-asked.rows // ROWS_MULTIPLE) * ROWS_MULTIPLE:
            raise PermanentError(
                f"shrink.vocabulary.rows: {len(chosen.kept)} of the {self._rows_before} rows have to stay (bytes, "
                "special tokens, ASCII, the chat template's, keep_texts and their parts); ask for at least as many",
                reason="ROWS_TOO_FEW",
            )
        return {
            "kept": list(chosen.kept),
            "extra_tokens": chosen.extra_tokens,
            "counted_bytes": {language: found.num_bytes for language, found in counts.items()},
        }

    def _count(self, tokenizer: Any) -> dict[str, TokenCounts]:
        """The tokens of the calibration corpus by kept language."""
        spec, observer = self._spec, self._observer
        corpus = calibration_corpus(spec, tokenizer, self._sources, observer)
        counts = {}
        for language in spec.kept_languages:
            documents = self._documents(corpus, language)
            found = counts[language] = count_tokens(tokenizer, documents, self._rows_before, observer.check)
            if not found.tokens:
                raise CorpusRefusedError(f"language {language} has no text beside that of the evaluation; give it more")
            observer.log("info", "tokens counted", language=language, tokens=found.tokens, bytes=found.num_bytes)
        return counts

    def _documents(self, corpus: Corpus, language: str) -> Iterator[str]:
        """The documents of a language whose tokens are counted: none that evaluation uses."""
        spec = self._spec
        evaluated = self._text.evaluation.get(language)
        passages = evaluated.passages.documents if evaluated and evaluated.passages else ()
        held_out = frozenset(map(document_hash, passages))
        shared = spec.calibration.corpus == spec.evaluation.corpus
        left = _COUNTED_OF_PRESETS if corpus.is_endless else COUNTED_BYTES
        for document in corpus.documents(language, spec.calibration.seed, Reading(self._observer.check)):
            if (shared and for_evaluation(document)) or document_hash(document) in held_out:
                continue
            yield document
            left -= len(document.encode())
            if left <= 0:
                return


def check_tokens(shrinkage: Shrinkage, folder: Path, text: JobText, check: Callable[[], None]) -> None:
    """Text whose tokens are all kept has the same ones in the trimmed vocabulary.

    It follows from how rows are chosen. But transformers builds some tokenizers anew from parts of their files, so it
    is checked on all text of the job before anything is written.

    Args:
        shrinkage: what is written.
        folder: the tokenizer of the output.
        text: of the job.
        check: called often; raises to stop.

    Raises:
        ModelRefusedError: it has others; the message shows the text.
    """
    if shrinkage.rows is None:
        return
    before, after = load_tokenizer(shrinkage.plan.dense.tokenizer_folder), load_tokenizer(folder)
    new = {old: number for number, old in enumerate(shrinkage.rows)}
    for sample in (*text.calibration.values(), *text.evaluation.values()):
        documents = list(sample.passages.documents if sample.passages else ())
        for start in range(0, len(documents), _BATCH_DOCUMENTS):
            check()
            batch = documents[start : start + _BATCH_DOCUMENTS]
            pairs = zip(*(tokenize(each, batch)["input_ids"] for each in (before, after)), strict=True)
            for document, (old, found) in zip(batch, pairs, strict=True):
                if new.keys() >= set(old) and [new[number] for number in old] != found:
                    raise ModelRefusedError(
                        f"its vocabulary cannot be trimmed: {document[:80]!r} would be encoded otherwise, although all "
                        "its tokens are kept; leave shrink.vocabulary out"
                    )


def _coverage(sample: TextSample, kept: tuple[int, ...]) -> float:
    """The share of the tokens of a text that are kept."""
    covered = torch.isin(sample.tokens, torch.tensor(kept)) & sample.is_text
    return int(covered.sum()) / max(1, sample.text_tokens)


def _rows_of(checkpoint: Checkpoint) -> int:
    return checkpoint.tensors[checkpoint.embedding_name].shape[0]


def _key(spec: PruneSpec, checkpoint: Checkpoint) -> str:
    """What the choice depends on."""
    assert spec.shrink is not None
    tokenizer = file_digest(checkpoint.tokenizer_folder / "tokenizer.json")
    parts = [str(_FORMAT), spec.calibration.model_dump_json(), spec.evaluation.model_dump_json()]
    parts += [spec.shrink.model_dump_json(), tokenizer, checkpoint.structure_digest()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _recall(path: Path, key: str) -> dict[str, Any] | None:
    if not path.exists():
        return None
    content: dict[str, Any] = json.loads(path.read_bytes())
    return content if content.pop("key") == key else None


def _ranges(numbers: tuple[int, ...]) -> list[list[int]]:
    """Ascending numbers as ranges [first, last]."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ranges
