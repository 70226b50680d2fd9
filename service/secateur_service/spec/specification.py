"""The specification of a prune job, and its single validator.

Every interface (gRPC, `secateur-service run`, the command line) uses it. `parse_spec` checks each part separately, so
that all broken rules are reported together, and turns pydantic's findings into field violations that name the remedy:
a field's description says what it accepts, and `Part.broken_rules` checks rules between fields.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from secateur_service.errors import FieldViolation, InvalidSpecError
from secateur_service.pruning.methods import Moments
from secateur_service.spec.base import (
    CHAT_TEMPLATE,
    CORPUS,
    TEXT_FIELD,
    Broken,
    LanguageTag,
    Part,
    TextField,
    Uri,
    named_twice,
)
from secateur_service.spec.calibration import CalibrationSpec
from secateur_service.spec.pruning import PruningSpec
from secateur_service.spec.validation_errors import independent, violations_of

SPEC_FORMAT = 1
"""Raised with every change after which an older release would refuse a resolved specification, or run it differently.
A job records the format of its specification; replicas that only know smaller numbers do not claim it."""

DEFAULT_TOKENS_PER_LANGUAGE = 65536


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
    languages: tuple[LanguageTag, ...] = Field(
        default=(), max_length=256, description="BCP 47 tags such as de, uk or zh-Hant, each once"
    )
    tokens_per_language: int = Field(
        default=DEFAULT_TOKENS_PER_LANGUAGE, ge=2, le=2**31 - 1, description="at least one sequence"
    )
    layer_snr: bool = Field(default=True, description="true or false: whether every layer's noise is measured")

    @field_validator("languages")
    @classmethod
    def _check_languages(cls, languages: tuple[str, ...]) -> tuple[str, ...]:
        twice = named_twice(languages)
        if twice:
            raise PydanticCustomError("value", "names a language twice: {twice}", {"twice": "; ".join(twice)})
        return languages


class OutputSpec(Part):
    """Where the artifacts go."""

    destination: Uri | None = Field(default=None, description="s3://bucket/prefix or file:///absolute/path")


class ExecutionSpec(Part):
    """How hard the service tries."""

    max_attempts: int = Field(default=3, ge=1, le=100, description="between 1 and 100")
    queue_deadline_seconds: int | None = Field(
        default=None, ge=1, lt=2**31, description="whole seconds, at least 1; leave it out for no limit"
    )
    run_deadline_seconds: int | None = Field(
        default=None, ge=1, lt=2**31, description="whole seconds, at least 1; leave it out for no limit"
    )


class PruneSpec(Part):
    """A whole specification. *Resolved* means that all defaults are filled in and the mix sums to one."""

    model: ModelSpec
    calibration: CalibrationSpec
    pruning: PruningSpec
    evaluation: EvaluationSpec = EvaluationSpec()
    output: OutputSpec = OutputSpec()
    execution: ExecutionSpec = ExecutionSpec()

    def digest(self) -> str:
        """SHA-256 of the canonical JSON form; equal specifications have equal digests."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def parse_parts(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[FieldViolation]]:
    """Validate each part of a specification separately.

    Returns:
        The valid parts by name, and the violations of all others.
    """
    parts: dict[str, Any] = {}
    violations = []
    for name in data.keys() - PruneSpec.model_fields.keys():
        known = ", ".join(PruneSpec.model_fields)
        violations.append(FieldViolation(str(name), f"no such part of a specification; known are {known}"))
    for name, field in PruneSpec.model_fields.items():
        kind = field.annotation
        assert isinstance(kind, type)
        assert issubclass(kind, Part)
        try:
            parts[name] = kind.model_validate(data.get(name, {}))
        except ValidationError as error:
            for finding in independent(error.errors()):
                violations.extend(violations_of(name, kind, finding))
    if "calibration" in parts and "pruning" in parts:
        between = _broken_between(parts["calibration"], parts["pruning"])
        violations += [FieldViolation(rule.field, f"{rule.problem}; {rule.remedy}") for rule in between]
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


def _broken_between(calibration: CalibrationSpec, pruning: PruningSpec) -> Iterator[Broken]:
    """The broken rules between the mix and the method."""
    if calibration.policy == "minimax" and pruning.recipe.moments is Moments.NONE:
        yield Broken(
            "calibration.policy",
            f"{pruning.effective_method} with update none uses no text, so there is nothing to balance",
            "choose another method or update, or leave the policy out",
        )
