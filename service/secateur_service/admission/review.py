"""What a specification names, looked at: whether it is there, may be read, and fits together."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from urllib.parse import quote

from secateur._suggestions import did_you_mean
from secateur_service.admission.access import AccessPolicy
from secateur_service.admission.text import CorpusText, check_text
from secateur_service.calibration.corpora import CorpusRefusedError, FolderCorpus, corpora_within, corpus_files
from secateur_service.calibration.languages import parse_language, spelling_of
from secateur_service.calibration.presets import PresetReference, parse_preset
from secateur_service.calibration.supply import sizes_of
from secateur_service.calibration.word_frequencies import has_words
from secateur_service.destination import DestinationRefusedError, lies_below, parse_destination
from secateur_service.durable import file_digest
from secateur_service.errors import FieldViolation, PermanentError
from secateur_service.models.belonging import check_model
from secateur_service.models.checkpoint import Checkpoint, ModelRefusedError
from secateur_service.models.files import checkpoint_files
from secateur_service.models.mandatory_tokens import TOKEN_FILES, least_rows
from secateur_service.models.opening import open_checkpoint
from secateur_service.models.plan_file import PLAN_NAME, PlanFile, plan_files, plan_folder, read_plan
from secateur_service.models.token_graph import TokenGraph
from secateur_service.pruning.structured.vocabulary import rounded_rows
from secateur_service.sizing.fitting import axes_of, misfits_of_pruning, misfits_of_shrinking
from secateur_service.sources import ReferenceRefusedError, Source
from secateur_service.sources.access import LocalSource
from secateur_service.sources.reference import HubReference
from secateur_service.spec import (
    DEFAULT_SEQUENCE_LENGTH,
    DEFAULT_TASK_LIMIT,
    BudgetAxis,
    CalibrationSpec,
    EvaluationSpec,
    GenerationSpec,
    ModelSpec,
    OutputSpec,
    PruneSpec,
    PruningSpec,
    ShrinkSpec,
)
from secateur_service.tasks import has_harness
from secateur_service.tasks.gold import check_items
from secateur_service.tasks.task_files import TaskFolder, TasksRefusedError, task_file_names

_MAX_DESCRIPTION_CHARACTERS = 1000


@dataclass
class LastModel:
    """The last model admitted, kept because jobs often name it again with other settings.

    Attributes:
        identity: identifies its bytes, see `Source.identity`; empty if there is no model.
        checkpoint: its configuration and the positions of its tensors.
    """

    identity: str = ""
    checkpoint: Checkpoint | None = None


ModelCheck = Callable[[Checkpoint], None]
"""Looks at an outline of a model (`Source.outline`) more closely than `open_checkpoint`; raises ModelRefusedError."""

MODEL_CHECKS: tuple[ModelCheck, ...] = (check_model,)
"""All the checks. They run once per model content; a server runs them in a process with a budget."""


class Review:
    """Collects violations of the rules that depend on what a specification names."""

    def __init__(
        self,
        access: AccessPolicy,
        violations: list[FieldViolation],
        at: Callable[[str], None],
        passed: str | None,
        last: LastModel,
    ) -> None:
        self._access = access
        self._violations = violations
        self.place = ""
        self._tell = at
        self._passed = passed
        self._last = last
        self.model_identity = ""
        self._model: ModelSpec | None = None
        self._source: Source | None = None
        self._corpora: dict[str, str] = {}
        self._task_files: str | None = None
        self._plan_sha256 = ""
        self._budget_axes: tuple[BudgetAxis, ...] = ()
        self._texts: dict[str, CorpusText] = {}
        self.warnings: list[FieldViolation] = []

    def _at(self, field: str) -> None:
        self.place = field
        self._tell(field)

    def refuse(self, field: str, description: str) -> None:
        """Add a violation."""
        if len(description) > _MAX_DESCRIPTION_CHARACTERS:  # it quotes untrusted text
            description = f"{description[:_MAX_DESCRIPTION_CHARACTERS]}…"
        self._violations.append(FieldViolation(field, description))

    def model(self, model: ModelSpec) -> Checkpoint | None:
        """The model's outline; None if it is refused."""
        self._at("model.uri")
        try:
            source = self._access.sources.open(model.uri, model.revision)
            self.model_identity = source.identity(checkpoint_files)
            checkpoint = self._last.checkpoint if self._last.identity == self.model_identity else None
            if checkpoint is None:
                self._last.identity, self._last.checkpoint = "", None  # never two in memory
                checkpoint = self._open(source)
                self._last.identity, self._last.checkpoint = self.model_identity, checkpoint
        except (ReferenceRefusedError, ModelRefusedError) as error:
            self.refuse("model.uri", str(error))
        except OSError as error:
            if error.errno == errno.ENOMEM:
                raise MemoryError from error
            self.refuse("model.uri", f"the folder cannot be read: {error.strerror}")
        else:
            self._source = source
            self._model = ModelSpec(uri=source.uri, revision=source.revision)
            return checkpoint
        return None

    def _open(self, source: Source) -> Checkpoint:
        with source.outline(checkpoint_files) as folder:
            checkpoint = open_checkpoint(folder)
            if self.model_identity != self._passed:
                for check in MODEL_CHECKS:
                    check(checkpoint)
        return checkpoint

    def corpus(self, part: str, uri: str, languages: Sequence[str]) -> None:
        """Whether a corpus has the languages."""
        self._at(f"{part}.corpus")
        try:
            preset = parse_preset(uri)
            if preset is not None:
                self._corpora[uri] = self._preset(part, preset, languages)
                return
            source = self._access.sources.open(uri)
            with source.outline(corpus_files) as folder:
                corpus = FolderCorpus(folder)
                if meant := _corpora_within(source, corpus, languages):
                    problem = "has text of these languages only in folders of it"
                    self.refuse(f"{part}.corpus", f"{problem}; {did_you_mean(meant)}")
                    return
                self._languages(part, enumerate(languages), corpus.files)
                here = folder if isinstance(source, LocalSource) else None
                self._texts[part] = CorpusText(source.pinned_uri, here, sizes_of(corpus, languages))
        except (CorpusRefusedError, ReferenceRefusedError) as error:
            self.refuse(f"{part}.corpus", str(error))
            return
        self._corpora[uri] = source.pinned_uri

    def _preset(self, part: str, reference: PresetReference, languages: Sequence[str]) -> str:
        """Look a preset up, in the table and at the hub; returns the reference with the commit that was found."""
        preset = reference.preset
        known = self._languages(part, enumerate(languages), preset.configuration)
        place = HubReference("dataset", preset.repository, reference.revision)
        data_set = self._access.sources.hub(place).describe(place)

        taken: dict[str, str] = {}

        def find(language: str) -> None:
            configuration = preset.configuration(language)
            other = taken.setdefault(configuration, language)
            if other != language:
                raise CorpusRefusedError(
                    f"{preset.name} has one text for it and {spelling_of(other)} ({configuration}); leave one out"
                )
            if data_set.configurations is not None and configuration not in data_set.configurations:
                raise CorpusRefusedError(f"{place} has no configuration {configuration}; choose another revision")

        self._languages(part, known, find)
        return str(PresetReference(preset, data_set.commit))

    def tasks(self, evaluation: EvaluationSpec) -> None:
        """What can be known of tasks without their harness, which is only loaded in workers."""
        self._at("evaluation.tasks")
        if self._access.runs_jobs and not has_harness():
            problem = "this service has no lm-evaluation-harness (the extra `tasks`, the package lm-eval)"
            self.refuse("evaluation.tasks", f"{problem}; leave them out")
            return
        if evaluation.task_files is None:
            if self._access.sources.open_hub is None:
                problem = "their items are read from the hub, and this service has none"
                self.refuse("evaluation.tasks", f"{problem}; give evaluation.task_files")
            return
        self._at("evaluation.task_files")
        try:
            source = self._access.sources.open(evaluation.task_files)
            with source.outline(task_file_names) as folder:
                found = TaskFolder(folder)
                for position, name in enumerate(evaluation.tasks):
                    try:
                        for task in found.find(name):
                            limit = evaluation.task_limit or DEFAULT_TASK_LIMIT
                            check_items(task, limit, has_content=source.revision is None)
                    except TasksRefusedError as error:
                        self.refuse(f"evaluation.tasks[{position}]", str(error))
        except (TasksRefusedError, ReferenceRefusedError) as error:
            self.refuse("evaluation.task_files", str(error))
            return
        self._task_files = source.pinned_uri

    def pinned(self, spec: PruneSpec) -> PruneSpec:
        """The specification, with the versions of the model and corpora that were checked."""
        assert self._model is not None
        calibration = spec.calibration.model_copy(update={"corpus": self._corpora[spec.calibration.corpus]})
        evaluation = spec.evaluation
        if evaluation.corpus is not None:
            evaluation = evaluation.model_copy(update={"corpus": self._corpora[evaluation.corpus]})
        if self._task_files is not None:
            evaluation = evaluation.model_copy(update={"task_files": self._task_files})
        shrink = spec.shrink
        if shrink is not None and shrink.plan is not None:
            shrink = shrink.model_copy(update={"plan_sha256": shrink.plan_sha256 or self._plan_sha256})
        if shrink is not None and shrink.budget is not None:
            budget = shrink.budget.model_copy(update={"axes": self._budget_axes})
            shrink = shrink.model_copy(update={"budget": budget})
        parts = {"model": self._model, "calibration": calibration, "evaluation": evaluation, "shrink": shrink}
        return spec.model_copy(update=parts)

    def _languages(
        self, part: str, languages: Iterable[tuple[int, str]], find: Callable[[str], object]
    ) -> list[tuple[int, str]]:
        """Refuse the languages that are not found and return the others, each with its position."""
        found = []
        for position, language in languages:
            try:
                find(language)
                found.append((position, language))
            except CorpusRefusedError as error:
                suffix = ".language" if part == "calibration" else ""
                self.refuse(f"{part}.languages[{position}]{suffix}", f"{spelling_of(language)!r}: the corpus {error}")
        return found

    def layers(
        self, pruning: PruningSpec, checkpoint: Checkpoint, shrink: ShrinkSpec | None, plan: PlanFile | None
    ) -> None:
        """Whether what is to be pruned is there."""
        self._at("pruning.overrides")
        for violation in misfits_of_pruning(pruning, shrink, plan, checkpoint):
            self.refuse(violation.field, violation.description)

    def shrinking(self, shrink: ShrinkSpec, checkpoint: Checkpoint) -> None:
        """Whether what is to be removed is there."""
        self._at("shrink")
        for violation in misfits_of_shrinking(shrink, checkpoint):
            self.refuse(violation.field, violation.description)
        if shrink.vocabulary is not None and shrink.vocabulary.prior == "words" and not has_words():
            problem = "this service has no word frequencies (the package wordfreq); choose model"
            self.refuse("shrink.vocabulary.prior", problem)
        able = axes_of(checkpoint)
        if shrink.budget is not None:
            self._budget_axes = shrink.budget.axes or able
        if shrink.vocabulary is None and "vocabulary" not in self._budget_axes:
            return
        self._at("shrink.vocabulary")
        assert self._source is not None
        try:
            rows = shrink.vocabulary.rows if shrink.vocabulary else None
            told_by = ("tokenizer.json",) if rows is None else TOKEN_FILES
            with self._source.outline(lambda names: [name for name in names if name in told_by]) as folder:
                if shrink.vocabulary is None or rows is None:
                    TokenGraph.open(folder)
                else:
                    self._rows(rows, least_rows(checkpoint, folder, shrink.vocabulary.keep_texts), checkpoint)
        except ModelRefusedError as error:
            if shrink.vocabulary is not None:
                self.refuse("shrink.vocabulary", f"{error}; leave it out")
            elif shrink.budget is not None and shrink.budget.axes:
                self.refuse("shrink.budget.axes", f"vocabulary: {error}; leave it out")
            else:
                self._budget_axes = tuple(axis for axis in able if axis != "vocabulary")

    def _rows(self, asked: int, least: int, checkpoint: Checkpoint) -> None:
        if rounded_rows(asked) < least:
            before = checkpoint.tensors[checkpoint.embedding_name].shape[0]
            kept = "bytes, special tokens, ASCII, the chat template's, keep_texts and their parts"
            problem = f"at least {least} of the {before} rows have to stay ({kept})"
            self.refuse("shrink.vocabulary.rows", f"{problem}; ask for at least as many")

    def sequences(self, calibration: CalibrationSpec, least: int, purpose: str) -> None:
        """Some of the sequences of each language must be left for what nothing is fitted to."""
        each = calibration.samples_per_language
        if each < least:
            sequences = "1 sequence" if each == 1 else f"{each} sequences"
            problem = f"{sequences} of each language are too few: {purpose} fits to some and judges by others"
            needed = least * len(calibration.languages)
            self.refuse("calibration.samples", f"{problem}; {purpose} needs {needed} in all")

    def plan(self, uri: str, checkpoint: Checkpoint) -> PlanFile | None:
        """The plan of another job, checked against the model."""
        self._at("shrink.plan")
        assert self._source is not None
        tokenizer = self._source.outline(lambda names: [name for name in names if name == "tokenizer.json"])
        try:
            with tokenizer as folder, self._access.sources.open(plan_folder(uri)).outline(plan_files) as other:
                plan = read_plan(other / PLAN_NAME, replace(checkpoint, companions=folder))
                self._plan_sha256 = file_digest(other / PLAN_NAME)
                return plan
        except (ReferenceRefusedError, ModelRefusedError) as error:
            self.refuse("shrink.plan", str(error))
        return None

    def text(self, calibration: CalibrationSpec, evaluation: EvaluationSpec, length: int, least_sequences: int) -> None:
        """Whether the corpora have as much text as is drawn from them."""
        self._at("calibration.corpus")
        refused, warnings = check_text(calibration, evaluation, length, self._texts, least_sequences)
        for violation in refused:
            self.refuse(violation.field, violation.description)
        self.warnings += warnings

    def weightless(self, calibration: CalibrationSpec) -> None:
        """Warn of languages that take their share of the samples and decide nothing."""
        for position, entry in enumerate(calibration.languages):
            if entry.weight == 0:
                problem = f"{entry.language} has weight 0: its text is sampled and decides nothing"
                remedy = "leave it out, name it in evaluation.languages, or give it a weight"
                field = f"calibration.languages[{position}].weight"
                self.warnings.append(FieldViolation(field, f"{problem}; {remedy}"))

    def destination(self, output: OutputSpec) -> None:
        """Whether results may go there, and can be written; without a destination, where they go by default."""
        self._at("output.destination")
        if output.destination is None:
            if self._access.destinations:
                self._writable(self._access.destinations[0])
            return
        try:
            destination = parse_destination(output.destination)
        except DestinationRefusedError as error:
            self.refuse("output.destination", str(error))
            return
        allowed = self._access.destinations
        if allowed is not None and not any(lies_below(destination, parse_destination(prefix)) for prefix in allowed):
            below = ", ".join(allowed)
            problem = f"not below a destination of this service ({below}); name one below, or leave it out"
            self.refuse("output.destination", problem)
            return
        self._writable(output.destination)

    def _writable(self, destination: str) -> None:
        if self._access.writable is None:
            return
        try:
            self._access.writable.check(destination)
        except PermanentError as error:
            self.refuse("output.destination", f"results cannot be written to {destination}: {error.message}")

    def sequence_length(
        self, calibration: CalibrationSpec | None, evaluation: EvaluationSpec | None, checkpoint: Checkpoint | None
    ) -> int:
        """The sequence length to use, checked against the model and the evaluation text.

        A length that is refused is replaced by the longest, so that what else is refused has remedies that go with it.
        """
        longest = checkpoint.max_sequence_length if checkpoint else None
        asked = calibration.sequence_length if calibration else None
        length = asked or min(DEFAULT_SEQUENCE_LENGTH, longest or DEFAULT_SEQUENCE_LENGTH)
        if longest is not None and length > longest:
            self.refuse(
                "calibration.sequence_length", f"{length} is more than the model's maximum; use at most {longest}"
            )
            length = longest
        if calibration and calibration.generation:
            self._written(calibration.generation, length, longest)
        if checkpoint and calibration and evaluation and evaluation.tokens_per_language < length:
            tokens = evaluation.tokens_per_language
            problem = f"{tokens} tokens are less than one sequence of {length}"
            remedy = f"use at least that, or a calibration.sequence_length of at most {tokens}"
            self.refuse("evaluation.tokens_per_language", f"{problem}; {remedy}")
        return length

    def _written(self, generation: GenerationSpec, length: int, longest: int | None) -> None:
        """Check that text generated by the model fits into a sequence, and into the model's context."""
        field = "calibration.generation.prefix_tokens"
        prefix, new = generation.resolved(length).prefix_tokens, generation.resolved(length).new_tokens
        assert prefix is not None
        assert new is not None
        if generation.new_tokens is None and prefix >= length:
            self.refuse(field, f"{prefix} tokens fill a sequence of {length} already; use fewer, or give new_tokens")
        elif longest is not None and prefix + new > longest:
            self.refuse(
                field,
                f"{prefix} tokens and {new} new ones are more than the model's maximum; use at most {longest} together",
            )


def _corpora_within(source: Source, corpus: FolderCorpus, languages: Sequence[str]) -> list[str]:
    """The folders that were meant where a corpus is named one level too high; a part of a repository has no name."""
    if source.uri.startswith("hf://"):
        return []
    with contextlib.suppress(CorpusRefusedError, ReferenceRefusedError):  # each language tells what cannot be read
        if not {*corpus.languages()} & {*map(parse_language, languages)}:
            return [f"{source.uri.rstrip('/')}/{quote(name)}" for name in corpora_within(source.names, languages)]
    return []
