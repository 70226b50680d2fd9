"""Decides which parts of the model are written, from what a job's specification asks for and its text shows.

Token counts need neither the model's weights nor much time: the calibration corpus is tokenised once more, further
than the calibration itself reads, but without the documents of the evaluation. The outcome is kept in the work
directory, so that a later attempt writes the same model even if the corpus is no longer there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from secateur_service.calibration.corpora import CorpusRefusedError, Reading
from secateur_service.calibration.packing import Framing
from secateur_service.calibration.sampling import TextSample, document_hash, for_evaluation
from secateur_service.calibration.token_frequencies import TokenCounts, count_tokens, token_frequencies
from secateur_service.calibration.tokenizing import tokenize
from secateur_service.durable import file_digest, write_durably
from secateur_service.errors import PermanentError
from secateur_service.models.checkpoint import Checkpoint, ModelRefusedError
from secateur_service.models.companions import Companions
from secateur_service.models.mandatory_tokens import mandatory_tokens
from secateur_service.models.plan import Kept, OutputPlan
from secateur_service.models.token_graph import TokenGraph
from secateur_service.models.tokenizer import load_tokenizer
from secateur_service.models.trimmed_tokenizer import trim_files
from secateur_service.pipeline.job_text import JobText, calibration_corpus
from secateur_service.pipeline.narrowing import narrowed_sizes
from secateur_service.pipeline.observer import JobObserver
from secateur_service.pruning.structured.vocabulary import ROWS_MULTIPLE, Rows, choose_rows
from secateur_service.records.blocks import BlockRecord
from secateur_service.sources import Sources
from secateur_service.spec import PruneSpec

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


def shrink(
    spec: PruneSpec,
    checkpoint: Checkpoint,
    companions: Companions,
    text: JobText,
    sources: Sources,
    observer: JobObserver,
    workdir: Path,
) -> Shrinkage:
    """Decide what is written.

    Args:
        spec: resolved.
        checkpoint: the dense model.
        companions: the files that go with it.
        text: calibration and evaluation text.
        sources: where the calibration corpus may be.
        observer: receives the progress and may stop the job.
        workdir: where the outcome is kept.

    Raises:
        ModelRefusedError: its vocabulary cannot be trimmed.
        CorpusRefusedError: the corpus cannot be read.
        PermanentError: fewer rows are asked for than have to stay.
    """
    found = _untrimmed(checkpoint)
    if spec.shrink and spec.shrink.vocabulary:
        found = _trim(spec, checkpoint, companions, text, sources, observer, workdir)
    config, narrowed = found.config, {}
    if spec.shrink and spec.shrink.feed_forward:
        layout = checkpoint.architecture.feed_forward
        assert layout is not None
        channels = spec.shrink.feed_forward.channels_of(checkpoint.linear_weight(0, layout.output).shape[1])
        config, narrowed = {**config, layout.size: channels}, narrowed_sizes(checkpoint, channels)
    blocks = tuple(range(checkpoint.num_blocks))
    plan = OutputPlan(checkpoint, config, blocks, found.kept, found.files, found.left_out, narrowed)
    if not plan.is_identity:
        after, before = plan.output().parameters, checkpoint.parameters
        observer.log("info", "the model becomes smaller", parameters=after, of_parameters=before)
    return Shrinkage(plan, found.extra_tokens, found.coverage, found.counted_bytes)


@dataclass(frozen=True)
class _Trimmed:
    """What trimming the vocabulary contributes to a plan; nothing by default."""

    kept: Mapping[str, Kept]
    files: Mapping[str, bytes]
    left_out: Mapping[str, str]
    extra_tokens: Mapping[str, float]
    config: Mapping[str, Any]
    coverage: Mapping[str, float]
    counted_bytes: Mapping[str, int]


def _untrimmed(checkpoint: Checkpoint) -> _Trimmed:
    return _Trimmed({}, {}, {}, {}, checkpoint.config, {}, {})


def _trim(
    spec: PruneSpec,
    checkpoint: Checkpoint,
    companions: Companions,
    text: JobText,
    sources: Sources,
    observer: JobObserver,
    workdir: Path,
) -> _Trimmed:
    tokenizer = load_tokenizer(checkpoint.tokenizer_folder)
    graph = TokenGraph.open(checkpoint.tokenizer_folder)
    path, key = workdir / "rows.json", _key(spec, checkpoint)
    found = _recall(path, key)
    if found is None:
        counts = _count(spec, tokenizer, _rows_of(checkpoint), text, sources, observer)
        found = _choose(spec, checkpoint, companions, tokenizer, graph, counts, observer)
        write_durably(path, json.dumps({"key": key, **found}).encode())
    rows = Rows(tuple(found["kept"]), found["extra_tokens"])
    if len(rows.kept) == _rows_of(checkpoint):
        observer.log("warning", "no row of the vocabulary can go within extra_tokens; it stays as it is")
        return _untrimmed(checkpoint)
    trimmed = trim_files(companions.folder, companions.names, checkpoint.config, rows.kept, _rows_of(checkpoint))
    for name, reason in trimmed.left_out.items():
        observer.log("info", f"left out: {reason}", files=name)
    told = {f"extra_tokens_{language}": round(share, 6) for language, share in rows.extra_tokens.items()}
    observer.log("info", "vocabulary trimmed", rows=len(rows.kept), of_rows=_rows_of(checkpoint), **told)
    heads = [info.name for info in checkpoint.other_tensors() if info.name.endswith(_HEAD)]
    return _Trimmed(
        kept={name: {0: rows.kept} for name in (checkpoint.embedding_name, checkpoint.head_name, *heads)},
        files=trimmed.files,
        left_out=trimmed.left_out,
        extra_tokens=rows.extra_tokens,
        config=trimmed.config,
        coverage={name: _coverage(sample, rows.kept) for name, sample in text.evaluation.items()},
        counted_bytes=found["counted_bytes"],
    )


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


def _count(
    spec: PruneSpec,
    tokenizer: Any,
    rows: int,
    text: JobText,
    sources: Sources,
    observer: JobObserver,
) -> dict[str, TokenCounts]:
    """The tokens of the calibration corpus by kept language."""
    languages = spec.kept_languages
    corpus = calibration_corpus(spec, tokenizer, sources, observer)
    shared = spec.calibration.corpus == spec.evaluation.corpus
    limit = _COUNTED_OF_PRESETS if corpus.is_endless else COUNTED_BYTES
    counts = {}
    for language in languages:
        evaluated = text.evaluation.get(language)
        passages = evaluated.passages.documents if evaluated and evaluated.passages else ()
        held_out = frozenset(map(document_hash, passages))

        def documents(language: str = language, held_out: frozenset[bytes] = held_out) -> Iterator[str]:
            left = limit
            for document in corpus.documents(language, spec.calibration.seed, Reading(observer.check)):
                if (shared and for_evaluation(document)) or document_hash(document) in held_out:
                    continue
                yield document
                left -= len(document.encode())
                if left <= 0:
                    return

        counts[language] = count_tokens(tokenizer, documents(), rows, observer.check)
        if not counts[language].tokens:
            raise CorpusRefusedError(f"language {language} has no text beside that of the evaluation; give it more")
        found = counts[language]
        observer.log("info", "tokens counted", language=language, tokens=found.tokens, bytes=found.num_bytes)
    return counts


def _choose(
    spec: PruneSpec,
    checkpoint: Checkpoint,
    companions: Companions,
    tokenizer: Any,
    graph: TokenGraph,
    counts: Mapping[str, TokenCounts],
    observer: JobObserver,
) -> dict[str, Any]:
    assert spec.shrink is not None
    assert spec.shrink.vocabulary is not None
    asked, before = spec.shrink.vocabulary, _rows_of(checkpoint)
    own = graph.tokens.keys() - graph.added.keys()
    texts = [graph.text(number) if number in own else "" for number in range(before)]
    frequencies = {language: token_frequencies(found, texts) for language, found in counts.items()}
    mandatory = mandatory_tokens(
        tokenizer, graph, companions.folder, companions.names, checkpoint.config, asked.keep_texts
    )
    framing = Framing.of(tokenizer, spec.calibration.document_separator)
    mandatory |= {*framing.beginning, *framing.separator, *tokenizer("", verbose=False)["input_ids"]}
    # Rows without a token, with which some vocabularies are filled up, go unless a configuration names one.
    parents = {number: pieces for number, pieces in graph.parents(observer.check).items() if number < before}
    parents |= {number: () for number in mandatory if number < before and number not in parents}
    chosen = choose_rows(
        frequencies,
        parents,
        mandatory,
        extra_tokens=asked.extra_tokens,
        rows=asked.rows,
        check=observer.check,
    )
    if asked.rows is not None and len(chosen.kept) > -(-asked.rows // ROWS_MULTIPLE) * ROWS_MULTIPLE:
        raise PermanentError(
            f"shrink.vocabulary.rows: {len(chosen.kept)} of the {before} rows have to stay (bytes, special tokens, "
            "ASCII, the chat template's, keep_texts and their parts); ask for at least as many",
            reason="ROWS_TOO_FEW",
        )
    return {
        "kept": list(chosen.kept),
        "extra_tokens": chosen.extra_tokens,
        "counted_bytes": {language: found.num_bytes for language, found in counts.items()},
    }


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
