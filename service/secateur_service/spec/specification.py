"""The specification of a prune job, and its single validator.

Every interface (gRPC, `secateur-service run`, the command line) uses it. `parse_spec` checks each part separately, so
that all broken rules are reported together, and turns pydantic's findings into field violations that name the remedy:
a field's description says what it accepts, and `Part.broken_rules` checks rules between fields.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError

from secateur._suggestions import did_you_mean
from secateur_service.errors import FieldViolation, InvalidSpecError
from secateur_service.pruning.methods import Moments, Recipe
from secateur_service.settings import MAX_PROCESSES
from secateur_service.spec import suggestions
from secateur_service.spec.base import (
    CHAT_TEMPLATE,
    CORPUS,
    TASK_FILES,
    TEXT_FIELD,
    Broken,
    LanguageTags,
    Part,
    TaskNames,
    TextField,
    Uri,
    is_nothing,
)
from secateur_service.spec.calibration import CalibrationSpec
from secateur_service.spec.limits import OTHERS, LimitsSpec
from secateur_service.spec.pruning import DEFAULT_ORDER, TRAINED_PRESETS, PruningSpec
from secateur_service.spec.reconstruction import ReconstructionSpec
from secateur_service.spec.shrink import ShrinkSpec
from secateur_service.spec.validation_errors import independent, model_in, violations_of

SPEC_FORMAT = 1
"""Raised with every change after which an older release would refuse a resolved specification, or run it differently.
A job records the format of its specification; replicas that only know smaller numbers do not claim it."""

DEFAULT_TOKENS_PER_LANGUAGE = 65536
DEFAULT_ENOUGH_DOCUMENTS = 500
_LEAST_SHARE = 4  # of the tokens, the part that is evaluated however many documents that are
DEFAULT_TASK_LIMIT = 100
_MAX_SEED = 2**53 - 1  # the largest that every reader of JSON keeps


class ModelSpec(Part):
    """The model to prune."""

    uri: Uri = Field(description="a safetensors checkpoint: hf://org/name, s3://bucket/prefix or file:///absolute/path")
    revision: Annotated[str, Field(min_length=1, max_length=255)] | None = Field(
        default=None, description="of a repository: a branch, tag or commit; its main branch by default"
    )


class EvaluationSpec(Part):
    """The text on which the dense and the pruned model are compared."""

    corpus: Uri | None = Field(default=None, description=CORPUS)
    text_field: TextField | None = Field(default=None, description=TEXT_FIELD)
    chat_template: bool | None = Field(default=None, description=CHAT_TEMPLATE)
    languages: LanguageTags = Field(default=(), description="BCP 47 tags such as de, uk or zh-Hant, each once")
    tokens_per_language: int = Field(
        default=DEFAULT_TOKENS_PER_LANGUAGE, ge=2, le=2**31 - 1, description="at least one sequence"
    )
    # None in specifications that an older release resolved; those have exactly so many tokens.
    enough_documents: int | None = Field(
        default=None, ge=1, le=2**31 - 1, exclude_if=is_nothing, description="documents of each language, at least 1"
    )
    layer_snr: bool = Field(default=True, description="true or false: whether every layer's noise is measured")
    language_neurons: bool = Field(
        default=False,
        exclude_if=is_nothing,
        description="true or false: whether neurons that belong to a language are looked for",
    )
    # Left out of the plain form where there are none, so that it is that of a specification without tasks.
    tasks: TaskNames = Field(default=(), exclude_if=is_nothing, description="names of tasks or groups, each once")
    task_files: Uri | None = Field(default=None, exclude_if=is_nothing, description=TASK_FILES)
    task_limit: int | None = Field(
        default=None, ge=1, le=100_000, exclude_if=is_nothing, description="items of each task, at least 1"
    )
    task_shots: int | None = Field(
        default=None, ge=0, le=100, exclude_if=is_nothing, description="examples before each question, from 0 to 100"
    )
    task_chat_template: bool | None = Field(
        default=None,
        exclude_if=is_nothing,
        description="true or false: whether questions are put into the model's chat template",
    )
    # None in specifications that an older release resolved; those have none.
    continuations: int | None = Field(
        default=None, ge=0, le=50, exclude_if=is_nothing, description="texts per language, from 0 to 50"
    )

    @property
    def least_tokens(self) -> int:
        """Tokens of each language without which nothing is evaluated."""
        return self.tokens_per_language // (_LEAST_SHARE if self.resolved_enough_documents else 1)

    @property
    def resolved_enough_documents(self) -> int | None:
        """The default included, which holds where the number of tokens is a default too."""
        if self.enough_documents is None and "tokens_per_language" not in self.model_fields_set:
            return DEFAULT_ENOUGH_DOCUMENTS
        return self.enough_documents

    def broken_rules(self) -> Iterator[Broken]:
        """What is said about tasks needs tasks."""
        for field in ("task_files", "task_limit", "task_shots", "task_chat_template"):
            if not self.tasks and getattr(self, field) is not None:
                yield Broken(field, "no task is named", "name the tasks in evaluation.tasks, or leave it out")


class OutputSpec(Part):
    """Where the artifacts go."""

    destination: Uri | None = Field(default=None, description="s3://bucket/prefix or file:///absolute/path")


class ExecutionSpec(Part):
    """How hard the service tries, and with how much at once; no byte of the result depends on it."""

    max_attempts: int = Field(default=3, ge=1, le=100, description="between 1 and 100")
    queue_deadline_seconds: int | None = Field(
        default=None, ge=1, lt=2**31, description="whole seconds, at least 1; leave it out for no limit"
    )
    run_deadline_seconds: int | None = Field(
        default=None, ge=1, lt=2**31, description="whole seconds, at least 1; leave it out for no limit"
    )
    # None in a resolved specification too: what applies then is what the operator says when the job runs.
    processes: int | None = Field(
        default=None,
        ge=1,
        le=MAX_PROCESSES,
        exclude_if=is_nothing,
        description=f"between 1 and {MAX_PROCESSES}; leave it out for the service's number",
    )


class PruneSpec(Part):
    """A whole specification. *Resolved* means that all defaults are filled in and the mix sums to one."""

    model: ModelSpec
    calibration: CalibrationSpec
    pruning: PruningSpec | None = None
    shrink: ShrinkSpec | None = None
    reconstruction: ReconstructionSpec | None = None
    evaluation: EvaluationSpec = EvaluationSpec()
    limits: LimitsSpec | None = None
    output: OutputSpec = OutputSpec()
    execution: ExecutionSpec = ExecutionSpec()

    @property
    def recipe(self) -> Recipe:
        """Score and update; where nothing is pruned, one that needs no text."""
        return self.pruning.recipe if self.pruning else Recipe.of("magnitude")

    @property
    def order(self) -> str:
        """The order of calibration and pruning."""
        return self.pruning.order if self.pruning else DEFAULT_ORDER

    @property
    def kept_languages(self) -> tuple[str, ...]:
        """The languages that a smaller model has to serve: those that are named, else those of the mix."""
        named = self.shrink.keep_languages if self.shrink else ()
        return named or tuple(language for language, weight in self.calibration.mix.items() if weight)

    def digest(self) -> str:
        """SHA-256 of the canonical JSON form; equal specifications have equal digests."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def parse_parts(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[FieldViolation]]:
    """Validate each part of a specification separately.

    Returns:
        The valid parts by name, and the violations of all others.
    """
    parts: dict[str, Any] = {}
    violations: list[FieldViolation] = []
    for name in data.keys() - PruneSpec.model_fields.keys():
        remedy = did_you_mean(suggestions.of(name, PruneSpec.model_fields))
        remedy = remedy or f"known are {', '.join(PruneSpec.model_fields)}"
        violations.append(FieldViolation(str(name), f"no such part of a specification; {remedy}"))
    for name, field in PruneSpec.model_fields.items():
        kind = model_in(field.annotation)
        assert kind is not None
        if data.get(name) is None and (
            name in ("shrink", "reconstruction", "limits") or (name == "pruning" and data.get("shrink") is not None)
        ):
            parts[name] = None
            continue
        try:
            parts[name] = kind.model_validate(data.get(name, {}))
        except ValidationError as error:
            for finding in independent(error.errors()):
                violations.extend(violations_of(name, kind, finding))
    violations += [FieldViolation(rule.field, f"{rule.problem}; {rule.remedy}") for rule in _inexact_seeds(parts)]
    pruning: PruningSpec | None = parts.get("pruning")
    by_preset = bool(pruning and pruning.preset in TRAINED_PRESETS and parts.get("reconstruction", ...) is None)
    if by_preset:
        parts["reconstruction"] = ReconstructionSpec()
    if "calibration" in parts:
        between = [
            *_broken_between(parts["calibration"], parts.get("pruning"), parts.get("shrink")),
            *_unreconstructable(parts.get("reconstruction"), parts.get("pruning"), parts.get("shrink"), by_preset),
            *_unmeasured(parts["calibration"], parts.get("evaluation"), parts.get("limits")),
        ]
        violations += [FieldViolation(rule.field, f"{rule.problem}; {rule.remedy}") for rule in between]
        if parts.get("limits") and "evaluation" in parts:
            parts["limits"] = parts["limits"].resolved(_evaluated(parts["calibration"], parts["evaluation"]))
    return parts, violations


def parse_spec(data: Mapping[str, Any]) -> PruneSpec:
    """Validate a specification given as plain data.

    Raises:
        InvalidSpecError: lists every broken rule.
    """
    parts, violations = parse_parts(data)
    if violations:
        raise InvalidSpecError(violations)
    return PruneSpec(**parts)


def _inexact_seeds(parts: Mapping[str, Any]) -> Iterator[Broken]:
    """Seeds that reports would not show as they are; jobs of earlier releases may have one, so no field forbids it."""
    for name in ("calibration", "reconstruction"):
        part = parts.get(name)
        if part is not None and part.seed > _MAX_SEED:
            yield Broken(
                f"{name}.seed",
                f"{part.seed} is too large: reports are JSON, whose readers round whole numbers above 2^53 - 1",
                f"give {_MAX_SEED} at most",
            )


def _broken_between(
    calibration: CalibrationSpec, pruning: PruningSpec | None, shrink: ShrinkSpec | None
) -> Iterator[Broken]:
    """The broken rules between the mix and what is done."""
    if calibration.policy == "minimax" and (not pruning or pruning.recipe.moments is Moments.NONE):
        why = f"{pruning.effective_method} with update none uses no text" if pruning else "no weights are pruned"
        yield Broken(
            "calibration.policy",
            f"{why}, so there is nothing to balance",
            "choose another method or update, or leave the policy out",
        )
    mix = calibration.mix
    for position, language in enumerate(shrink.keep_languages if shrink else ()):
        if not mix.get(language):
            yield Broken(
                f"shrink.keep_languages[{position}]",
                f"{language} has no weight in the mix, so nothing is known of it",
                "add it to calibration.languages, or leave it out",
            )
    kept = (
        shrink.keep_languages if shrink and shrink.keep_languages else [name for name, weight in mix.items() if weight]
    )
    for position, entry in enumerate(shrink.vocabulary.weights if shrink and shrink.vocabulary else ()):
        if entry.language not in kept:
            yield Broken(
                f"shrink.vocabulary.weights[{position}]",
                f"{entry.language} is not kept, so its tokens do not count",
                "add it to shrink.keep_languages and to the mix, or leave it out",
            )


def _unreconstructable(
    asked: ReconstructionSpec | None,
    pruning: PruningSpec | None,
    shrink: ShrinkSpec | None,
    by_preset: bool,  # noqa: FBT001
) -> Iterator[Broken]:
    """Blocks that lose nothing, or that do not see what earlier ones lost."""
    if asked is None:
        return
    if pruning is not None and pruning.order == "dense":
        problem = "in order dense no block sees what earlier ones have lost"
        if by_preset:
            problem = f"{pruning.preset} trains blocks, but {problem}"
            yield Broken("pruning.preset", problem, "choose another order, or preset balanced")
        else:
            yield Broken("reconstruction", problem, "choose another order, or leave it out")
    if pruning is None and shrink is not None and not shrink.changes_blocks:
        yield Broken("reconstruction", "the blocks stay as they are", "leave it out")


def _evaluated(calibration: CalibrationSpec, evaluation: EvaluationSpec | None) -> tuple[str, ...]:
    """The languages that are evaluated: those that are named, else those of the mix."""
    named = evaluation.languages if evaluation else ()
    return named or tuple(entry.language for entry in calibration.languages)


def _unmeasured(
    calibration: CalibrationSpec, evaluation: EvaluationSpec | None, limits: LimitsSpec | None
) -> Iterator[Broken]:
    """What is asked of languages and tasks that are not evaluated, or of a single language that takes two."""
    known = _evaluated(calibration, evaluation)
    if evaluation and evaluation.language_neurons and len(known) == 1:
        problem = f"only {known[0]} is evaluated, and a neuron belongs to a language by comparison with others"
        yield Broken("evaluation.language_neurons", problem, "add languages to evaluation.languages, or leave it out")
    for position, entry in enumerate(limits.languages if limits else ()):
        if entry.language not in (*known, OTHERS):
            problem = f"{entry.language} is not evaluated, so nothing shows what it loses"
            yield Broken(f"limits.languages[{position}]", problem, "add it to evaluation.languages, or leave it out")
    if limits and limits.task_loss is not None and evaluation is not None and not evaluation.tasks:
        problem = "no task is evaluated, so nothing shows what tasks lose"
        yield Broken("limits.task_loss", problem, "name tasks in evaluation.tasks, or leave it out")
