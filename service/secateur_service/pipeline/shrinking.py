"""Decides which parts of the model are written, from what a job's specification asks for and its text shows.

Token counts need neither the model's weights nor much time: the calibration corpus is tokenised once more, further
than the calibration itself reads, but without the documents of the evaluation. The outcome is kept in the work
directory, so that a later attempt writes the same model even if the corpus is no longer there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from secateur_service.calibration.corpora import Corpus, CorpusRefusedError, Reading
from secateur_service.calibration.packing import Framing
from secateur_service.calibration.sampling import TextSample
from secateur_service.calibration.splitting import document_hash, for_evaluation
from secateur_service.calibration.token_frequencies import TokenCounts, count_tokens, token_frequencies
from secateur_service.calibration.tokenizing import tokenize
from secateur_service.calibration.word_frequencies import rare_words, token_shares, words_of
from secateur_service.durable import file_digest, write_durably
from secateur_service.errors import PermanentError
from secateur_service.models.checkpoint import Checkpoint, ModelRefusedError
from secateur_service.models.companions import Companions
from secateur_service.models.depth import without_blocks
from secateur_service.models.mandatory_tokens import mandatory_tokens
from secateur_service.models.plan import OutputPlan
from secateur_service.models.plan_file import (
    PLAN_NAME,
    ModelIdentity,
    PlanFile,
    RemovedBlock,
    VocabularyPlan,
    plan_files,
    plan_folder,
    ranges,
    read_plan,
)
from secateur_service.models.safetensors import read_header, write_shard
from secateur_service.models.tensors import output_tensor
from secateur_service.models.token_graph import TokenGraph
from secateur_service.models.tokenizer import load_tokenizer
from secateur_service.models.trimmed_tokenizer import trim_files
from secateur_service.models.units import KeptUnits, adds_to_states, heads_of, settings_of, unit_count
from secateur_service.pipeline.depth_search import RemoveBlocks
from secateur_service.pipeline.job_text import JobText, calibration_corpus
from secateur_service.pipeline.meter import Meter
from secateur_service.pipeline.observer import JobObserver
from secateur_service.pruning.structured.vocabulary import Rows, choose_rows, rounded_rows
from secateur_service.records.blocks import Axis, BlockRecord
from secateur_service.sources import ReferenceRefusedError, Sources
from secateur_service.spec import PruneSpec, ShrinkSpec, VocabularySpec

COUNTED_BYTES = 32 << 20
"""Text of each language that is counted at most."""
_COUNTED_OF_PRESETS = 8 << 20  # which are streamed
_BATCH_DOCUMENTS = 256
_FORMAT = 1
_EXTRA_TOKENS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)  # what a budget looks at
_HEAD = ("lm_head.weight", "lm_head.bias")


@dataclass(frozen=True)
class Shrinkage:
    """Which parts of a model are written, and what that is expected to cost.

    Attributes:
        plan: the parts.
        file: what is published of it, without the parts that are chosen while a block is in memory.
        coverage: by evaluation language, the share of its evaluation text's tokens that are kept.
        units: the heads and channels to keep where they are known, by axis and by the number of the block.
    """

    plan: OutputPlan
    file: PlanFile
    coverage: Mapping[str, float] = field(default_factory=dict)
    units: KeptUnits = field(default_factory=dict)

    @property
    def rows(self) -> tuple[int, ...] | None:
        """Ids of the rows of the vocabulary that stay; None where all do."""
        kept = self.plan.kept.get(self.plan.dense.embedding_name, {}).get(0)
        return None if kept is None else tuple(kept)

    def to_bytes(self, blocks: Sequence[BlockRecord]) -> bytes:
        """The published form.

        Args:
            blocks: all finished blocks.
        """
        return self.file.with_blocks(self.plan.blocks, blocks).to_bytes()

    @classmethod
    def of(cls, plan: OutputPlan) -> Shrinkage:
        """Of a plan of which nothing else is known."""
        return cls(plan, PlanFile(format=1, model=ModelIdentity.of(plan.dense)))


@dataclass(frozen=True)
class _Tokens:
    """What is known of a vocabulary: see `choose_rows`."""

    frequencies: Mapping[str, Sequence[float]]
    parents: Mapping[int, tuple[int, ...]]
    mandatory: set[int]
    counted_bytes: Mapping[str, int]


class Shrinker:
    """Decides which parts of a model are written.

    Args:
        spec: the resolved specification.
        checkpoint: the dense model.
        companions: the files that go with it.
        text: calibration and evaluation text.
        sources: where the calibration corpus may be.
        observer: receives the progress and may stop the job.
        meter: counts the bytes that are fetched.
        workdir: where the outcome is kept.

    Attributes:
        order: the blocks to remove in their order, where another job's plan says them.
        expected: how often the model expects each token, by kept language; set once the model can be run.
    """

    expected: Callable[[], Mapping[str, Sequence[float]]]

    def __init__(
        self,
        spec: PruneSpec,
        checkpoint: Checkpoint,
        companions: Companions,
        text: JobText,
        sources: Sources,
        observer: JobObserver,
        meter: Meter,
        workdir: Path,
    ) -> None:
        self._spec = spec
        self._checkpoint = checkpoint
        self._companions = companions
        self._text = text
        self._sources = sources
        self._observer = observer
        self._meter = meter
        self._workdir = workdir
        self._rows_before = _rows_of(checkpoint)
        self.order: tuple[int, ...] = ()
        self._tokens: _Tokens | None = None

    def shrink(self, asked: ShrinkSpec | None) -> Shrinkage:
        """Decide what is written, except for the blocks to remove: `remove_blocks` does that.

        Args:
            asked: what is to be removed, with its amounts.

        Raises:
            ModelRefusedError: the vocabulary cannot be trimmed.
            CorpusRefusedError: the corpus cannot be read.
            PermanentError: more rows have to be kept than were asked for, or the plan of another job does not fit.
        """
        checkpoint = self._checkpoint
        shrinkage = Shrinkage.of(OutputPlan.identity(checkpoint))
        if asked is None:
            return shrinkage
        given = self._given(asked.plan, asked.plan_sha256) if asked.plan else None
        if given is not None and given.vocabulary is not None:
            self._check_rows(given.vocabulary.indices)
            shrinkage = self._trimmed(given.vocabulary)
        elif asked.vocabulary is not None:
            shrinkage = self._trimmed(self._chosen(asked.vocabulary))
        counts = self._counts(asked)
        if given is not None:
            shrinkage = replace(shrinkage, units=given.units)
            self.order = tuple(entry.block for entry in given.removed_blocks)
            counts = given.counts(checkpoint)
        settings: dict[str, Any] = {}
        for axis, count in counts.items():
            settings |= settings_of(checkpoint, axis, count)
        config = checkpoint.changed(shrinkage.plan.config, lambda found: found | settings)
        follows = bool(counts) and adds_to_states(checkpoint)
        return replace(shrinkage, plan=replace(shrinkage.plan, config=config, narrowed=counts, follows=follows))

    def _counts(self, asked: ShrinkSpec) -> dict[Axis, int]:
        """How many heads and channels each block keeps."""
        counts: dict[Axis, int] = {}
        if asked.kv_heads is not None:
            counts["attention"] = heads_of(self._checkpoint).keys - asked.kv_heads.remove
        if asked.feed_forward is not None:
            counts["feed_forward"] = asked.feed_forward.channels_of(unit_count(self._checkpoint, "feed_forward"))
        return counts

    def remove_blocks(
        self,
        shrinkage: Shrinkage,
        count: int,
        order: Sequence[int],
        remove: RemoveBlocks,
        conditions: str,
    ) -> Shrinkage:
        """Decide which blocks go, and what makes up for them.

        Args:
            shrinkage: what `shrink` decided.
            count: how many go.
            order: which ones, if that is known.
            remove: looks for so many, or takes these, and finds what makes up for them.
            conditions: identifies everything that the numbers depend on.
        """
        if not count:
            return shrinkage
        plan, folder, path = shrinkage.plan, self._workdir / "solved", self._workdir / "blocks.json"
        found = _recall(path, conditions)
        if found is None:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            depth = remove(count, order)
            removed = [{"block": removal.block, "growth": removal.growth} for removal in depth.removals]
            shard = ""
            if depth.solved:
                shard = write_shard(folder, "solved", [output_tensor(*entry) for entry in depth.solved.items()]).name
            found = {"removed": removed, "shard": shard}
            write_durably(path, json.dumps({"key": conditions, **found}).encode())
        removals = tuple(RemovedBlock.model_validate(entry) for entry in found["removed"])
        gone = {removal.block for removal in removals}
        kept = tuple(index for index in plan.blocks if index not in gone)
        for removal in removals:
            told = {f"bits_per_byte_growth_{language}": round(share, 6) for language, share in removal.growth.items()}
            self._observer.log("info", "block removed", block=removal.block, **told)
        plan = replace(
            plan,
            config=without_blocks(self._checkpoint, plan.config, kept),
            blocks=kept,
            follows=adds_to_states(self._checkpoint),
            solved=read_header(folder / found["shard"]) if found["shard"] else {},
        )
        return replace(shrinkage, plan=plan, file=shrinkage.file.model_copy(update={"removed_blocks": removals}))

    def _given(self, uri: str, sha256: str | None) -> PlanFile:
        """The plan of another job, copied so that a later attempt has the same."""
        path = self._workdir / "given" / PLAN_NAME
        if not path.exists():
            try:
                with self._sources.open(plan_folder(uri)).outline(plan_files) as folder:
                    content = (folder / PLAN_NAME).read_bytes()
            except (OSError, ReferenceRefusedError) as error:
                raise _plan_refused(f"{uri} holds no {PLAN_NAME} any more") from error
            if sha256 and hashlib.sha256(content).hexdigest() != sha256:
                raise _plan_refused(f"the {PLAN_NAME} of {uri} has changed since the job was submitted")
            path.parent.mkdir(exist_ok=True)
            write_durably(path, content)
        try:
            return read_plan(path, self._checkpoint)
        except ModelRefusedError as error:
            raise _plan_refused(str(error)) from error

    def _trimmed(self, vocabulary: VocabularyPlan | None) -> Shrinkage:
        """Only some rows of the vocabulary."""
        checkpoint, companions, observer = self._checkpoint, self._companions, self._observer
        identity = OutputPlan.identity(checkpoint)
        if vocabulary is None:
            observer.log("warning", "no row of the vocabulary can go within extra_tokens; it stays as it is")
            return Shrinkage.of(identity)
        rows = vocabulary.indices
        config = checkpoint.config_with_tokens
        trimmed = trim_files(companions.folder, companions.names, config, rows, self._rows_before)
        for name, reason in trimmed.left_out.items():
            observer.log("info", f"left out: {reason}", files=name)
        told = {f"extra_tokens_{language}": round(share, 6) for language, share in vocabulary.extra_tokens.items()}
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
        published = PlanFile(format=1, model=ModelIdentity.of(checkpoint), vocabulary=vocabulary)
        return Shrinkage(plan, published, coverage)

    def tokens_by_rows(self, asked: VocabularySpec) -> dict[int, dict[str, float]]:
        """The further tokens that each language is expected to take, by the number of rows that stay."""
        rows = {self._rows_before: dict.fromkeys(self._spec.kept_languages, 0.0)}
        for share in _EXTRA_TOKENS:
            chosen = self._choose_rows(asked.model_copy(update={"extra_tokens": share}))
            rows[len(chosen.kept)] = chosen.extra_tokens
        return rows

    def _chosen(self, asked: VocabularySpec) -> VocabularyPlan | None:
        """The rows that the kept languages need; None if they are all of them."""
        path, key = self._workdir / "rows.json", _key(self._spec, asked, self._checkpoint)
        found = _recall(path, key)
        if found is None:
            found = self._choose(asked)
            write_durably(path, json.dumps({"key": key, **found}).encode())
        kept = found.pop("kept")
        return None if len(kept) == self._rows_before else VocabularyPlan(kept=ranges(kept), **found)

    def _check_rows(self, rows: tuple[int, ...]) -> None:
        """Rows that somebody else chose must make up a vocabulary.

        Raises:
            PermanentError: tokens or parts of tokens are missing.
        """
        parents, mandatory = self._needed(load_tokenizer(self._checkpoint.tokenizer_folder), ())[1:]
        kept = set(rows)
        missing = {number for number in mandatory if number < self._rows_before} - kept
        missing |= {piece for number in kept for piece in parents.get(number, ())} - kept
        if missing:
            raise _plan_refused(
                f"its rows lack {len(missing)} that the tokenizer or the model's files need, such as {min(missing)}"
            )

    def _choose(self, asked: VocabularySpec) -> dict[str, Any]:
        chosen = self._choose_rows(asked)
        if asked.rows is not None and len(chosen.kept) > rounded_rows(asked.rows):
            raise PermanentError(
                f"shrink.vocabulary.rows: {len(chosen.kept)} of the {self._rows_before} rows have to stay (bytes, "
                "special tokens, ASCII, the chat template's, keep_texts and their parts); ask for at least as many",
                reason="ROWS_TOO_FEW",
            )
        return {
            "kept": list(chosen.kept),
            "extra_tokens": chosen.extra_tokens,
            "counted_bytes": dict(self._known_of(asked).counted_bytes),
        }

    def _choose_rows(self, asked: VocabularySpec) -> Rows:
        known = self._known_of(asked)
        return choose_rows(
            known.frequencies,
            known.parents,
            known.mandatory,
            extra_tokens=asked.extra_tokens,
            rows=asked.rows,
            weights={language: asked.weight_of(language) for language in known.frequencies},
            check=self._observer.check,
        )

    def _known_of(self, asked: VocabularySpec) -> _Tokens:
        """What is known of the tokens; kept in memory, since a budget chooses rows several times."""
        if self._tokens is None:
            tokenizer = load_tokenizer(self._checkpoint.tokenizer_folder)
            graph, parents, mandatory = self._needed(tokenizer, asked.keep_texts)
            corpus = calibration_corpus(self._spec, tokenizer, self._sources, self._observer, self._meter)
            counts = self._count(tokenizer, corpus)
            known = self._known_shares(tokenizer, corpus, asked)
            own = graph.tokens.keys() - graph.added.keys()
            texts = [graph.text(number) if number in own else "" for number in range(self._rows_before)]
            frequencies = {
                language: token_frequencies(found, texts, known.get(language)) for language, found in counts.items()
            }
            counted_bytes = {language: found.num_bytes for language, found in counts.items()}
            self._tokens = _Tokens(frequencies, parents, mandatory, counted_bytes)
        return self._tokens

    def _known_shares(
        self, tokenizer: Any, corpus: Corpus, asked: VocabularySpec
    ) -> Mapping[str, Sequence[float] | None]:
        """By language, what is known of the share of each token from elsewhere than its text."""
        if asked.prior == "model":
            self._observer.log("info", "running the model to see which tokens it expects")
            return self.expected()
        if asked.prior == "words":
            return {language: self._words(tokenizer, corpus, language) for language in self._spec.kept_languages}
        return {}

    def _words(self, tokenizer: Any, corpus: Corpus, language: str) -> Sequence[float] | None:
        """The share of each token in the words of a language, if these are known."""
        observer = self._observer
        observer.log("info", "encoding the words of a language", language=language)
        words = words_of(language)
        if not words:
            observer.log("warning", "no word frequencies are known; the prior is that of ranks", language=language)
            return None
        observer.log("info", "word frequencies read", language=language, words=len(words))
        rare = rare_words(self._documents(corpus, language))
        return token_shares(tokenizer, words, self._rows_before, rare, observer.check)

    def _needed(
        self, tokenizer: Any, keep_texts: Sequence[str]
    ) -> tuple[TokenGraph, dict[int, tuple[int, ...]], set[int]]:
        """The tokens, the parts of each, and those that have to stay."""
        checkpoint, companions, graph = (
            self._checkpoint,
            self._companions,
            TokenGraph.open(self._checkpoint.tokenizer_folder),
        )
        mandatory = mandatory_tokens(
            tokenizer,
            graph,
            companions.folder,
            companions.names,
            checkpoint.config_with_tokens,
            keep_texts,
            is_multimodal=checkpoint.architecture.wrapper is not None,
        )
        framing = Framing.of(tokenizer, self._spec.calibration.document_separator)
        mandatory |= {*framing.beginning, *framing.separator}
        # Rows without a token, with which some vocabularies are padded, go unless a configuration refers to one.
        found = graph.parents(self._observer.check)
        parents = {number: pieces for number, pieces in found.items() if number < self._rows_before}
        parents |= {number: () for number in mandatory if number < self._rows_before and number not in parents}
        return graph, parents, mandatory

    def _count(self, tokenizer: Any, corpus: Corpus) -> dict[str, TokenCounts]:
        """The tokens of the calibration corpus by kept language."""
        spec, observer = self._spec, self._observer
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


def _plan_refused(problem: str) -> PermanentError:
    return PermanentError(
        f"shrink.plan: {problem}; submit the job again with the result of a job on this model", reason="PLAN_REFUSED"
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


def _coverage(sample: TextSample, kept: tuple[int, ...]) -> float:
    """The share of the tokens of a text that are kept."""
    covered = torch.isin(sample.tokens, torch.tensor(kept)) & sample.is_text
    return int(covered.sum()) / max(1, sample.text_tokens)


def _rows_of(checkpoint: Checkpoint) -> int:
    return checkpoint.tensors[checkpoint.embedding_name].shape[0]


def _key(spec: PruneSpec, asked: VocabularySpec, checkpoint: Checkpoint) -> str:
    """What the choice of rows depends on."""
    tokenizer = file_digest(checkpoint.tokenizer_folder / "tokenizer.json")
    parts = [str(_FORMAT), spec.calibration.model_dump_json(), spec.evaluation.model_dump_json()]
    parts += [asked.model_dump_json(), *spec.kept_languages, tokenizer, checkpoint.structure_digest()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _recall(path: Path, key: str) -> dict[str, Any] | None:
    if not path.exists():
        return None
    content: dict[str, Any] = json.loads(path.read_bytes())
    return content if content.pop("key") == key else None
