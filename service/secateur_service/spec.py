"""The specification of a prune job, and its single validator.

Every surface (gRPC, `secateur-service run`, the command line) ends here. `parse_spec` checks each part by itself, so
that all broken rules come back together, and turns pydantic's findings into field violations that name the remedy:
the description of a field says what it accepts.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import langcodes
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from secateur_service.errors import FieldViolation, InvalidSpecError
from secateur_service.pruning.methods import METHODS, UPDATES, goes_together

ORDERS = ("block",)
DEFAULT_SAMPLES = 128
DEFAULT_SEQUENCE_LENGTH = 2048
DEFAULT_TOKENS_PER_LANGUAGE = 65536

Uri = Annotated[str, Field(min_length=1, max_length=1024)]


def _known_language(tag: str) -> str:
    if not langcodes.tag_is_valid(tag):
        raise PydanticCustomError("value", "is not a language that BCP 47 knows")
    return tag


class Part(BaseModel):
    """Common rules: no unknown fields, finite numbers, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelSpec(Part):
    """The model to prune."""

    uri: Uri = Field(description="a folder with a safetensors checkpoint, file:///absolute/path")


class LanguageWeight(Part):
    """One language of the mix."""

    language: str = Field(description="a BCP 47 tag such as de, uk or zh-Hant", max_length=64)
    weight: float = Field(default=1.0, ge=0, description="a number that is not negative; weights are normalised")

    _known = field_validator("language")(_known_language)


class CalibrationSpec(Part):
    """The text that decides what the pruned model keeps."""

    corpus: Uri = Field(description="a folder with one text file per language, file:///absolute/path")
    languages: tuple[LanguageWeight, ...] = Field(
        min_length=1, max_length=256, description="at least one language with its weight, e.g. de: 0.7, en: 0.3"
    )
    samples: int = Field(
        default=DEFAULT_SAMPLES, ge=1, le=1_000_000, description="sequences in all, at least one per language"
    )
    sequence_length: int | None = Field(default=None, ge=2, le=1_048_576, description="tokens per sequence, at least 2")
    seed: int = Field(default=0, ge=0, lt=2**63, description="a whole number that is not negative")

    @model_validator(mode="after")
    def _check_mix(self) -> Self:
        tags = [entry.language for entry in self.languages]
        if len(set(tags)) != len(tags):
            _refuse("languages", "each language may appear once", "merge the entries of a repeated language")
        if not sum(entry.weight for entry in self.languages) > 0:
            _refuse("languages", "the weights sum to zero", "give at least one language a positive weight")
        if self.samples < len(tags):
            _refuse("samples", f"{self.samples} samples cannot serve {len(tags)} languages", "ask for more samples")
        return self

    @property
    def samples_per_language(self) -> int:
        """Sequences of each language; what does not divide evenly is left out."""
        return self.samples // len(self.languages)

    @property
    def weights(self) -> dict[str, float]:
        """Mixing weight of each language; they sum to one."""
        total = sum(entry.weight for entry in self.languages)
        return {entry.language: entry.weight / total for entry in self.languages}


class PruningSpec(Part):
    """How much is pruned, and by what rule. Exactly one of `sparsity` and `pattern` is given."""

    method: Literal["magnitude", "wanda", "ria", "sparsegpt", "alps"] = Field(
        default="sparsegpt", description="one of " + ", ".join(METHODS)
    )
    update: Literal["none", "cg", "obs", "admm"] | None = Field(
        default=None, description=f"one of {', '.join(UPDATES)}; the method's own where it is not given"
    )
    sparsity: float | None = Field(default=None, gt=0, lt=1, description="a share strictly between 0 and 1, e.g. 0.5")
    pattern: str | None = Field(
        default=None,
        max_length=16,
        description="N:M with 0 < N < M, e.g. 2:4: N weights kept of every M consecutive inputs",
    )
    order: Literal["block"] = Field(default="block", description="one of " + ", ".join(ORDERS))

    @field_validator("pattern")
    @classmethod
    def _check_pattern(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            match = re.fullmatch(r"([0-9]+):([0-9]+)", pattern)
            if not match or not 0 < int(match[1]) < int(match[2]):
                raise PydanticCustomError("value", "is not a pattern that keeps some weights and prunes some")
        return pattern

    @model_validator(mode="after")
    def _check_target(self) -> Self:
        if (self.sparsity is None) == (self.pattern is None):
            _refuse("sparsity", "exactly one of sparsity and pattern is needed", "e.g. sparsity 0.5, or pattern 2:4")
        if not goes_together(self.method, self.effective_update):
            _refuse("update", f"{self.update} does not go with {self.method}", "alps takes admm, and nothing else does")
        return self

    @property
    def effective_update(self) -> str:
        """The update that runs."""
        return self.update or METHODS[self.method].update

    @property
    def kept_of_group(self) -> tuple[int, int] | None:
        """(N, M) of the pattern, None where the pruning is unstructured."""
        if self.pattern is None:
            return None
        kept, group = self.pattern.split(":")
        return int(kept), int(group)

    @property
    def target_sparsity(self) -> float:
        """The share of weights to prune, whichever way it was asked for."""
        if self.sparsity is not None:
            return self.sparsity
        assert self.kept_of_group is not None
        kept, group = self.kept_of_group
        return 1 - kept / group


class EvaluationSpec(Part):
    """The text on which the dense and the pruned model are compared."""

    corpus: Uri | None = Field(
        default=None, description="a folder with one text file per language, file:///absolute/path"
    )
    languages: tuple[str, ...] = Field(
        default=(), max_length=256, description="BCP 47 tags such as de, uk or zh-Hant, each once"
    )
    tokens_per_language: int = Field(
        default=DEFAULT_TOKENS_PER_LANGUAGE, ge=2, le=2**31 - 1, description="at least one sequence"
    )

    @field_validator("languages")
    @classmethod
    def _check_languages(cls, languages: tuple[str, ...]) -> tuple[str, ...]:
        for tag in languages:
            _known_language(tag)
        if len(set(languages)) != len(languages):
            raise PydanticCustomError("value", "names a language twice")
        return languages


class OutputSpec(Part):
    """Where the artifacts go."""

    destination: Uri | None = Field(default=None, description="s3://bucket/prefix or file:///absolute/path")


class ExecutionSpec(Part):
    """How hard the service tries."""

    max_attempts: int = Field(default=3, ge=1, le=100, description="between 1 and 100")


class PruneSpec(Part):
    """A whole specification. *Resolved* means: no default is left open and the weights sum to one."""

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
    """Validate each part of a specification by itself.

    Returns:
        The parts that are valid by name, and the violations of all others.
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
            violations.extend(_violation(name, kind, finding) for finding in _independent(error.errors()))
    return parts, violations


def parse_spec(data: Mapping[str, Any]) -> PruneSpec:
    """Validate a specification given as plain data.

    Raises:
        InvalidSpecError: with every rule that is broken.
    """
    parts, violations = parse_parts(data)
    if violations:
        raise InvalidSpecError(violations)
    return PruneSpec(**parts)


def _refuse(field: str, problem: str, remedy: str) -> None:
    raise PydanticCustomError("rule", "{problem}; {remedy}", {"field": field, "problem": problem, "remedy": remedy})


def _independent(findings: Sequence[Any]) -> Iterator[Any]:
    """Leave out that a list is too short where its items are invalid: pydantic counts only the valid ones."""
    for finding in findings:
        path = finding["loc"]
        if finding["type"] == "too_short" and any(
            other["loc"][: len(path)] == path != other["loc"] for other in findings
        ):
            continue
        yield finding


def _violation(part: str, kind: type[BaseModel], finding: Any) -> FieldViolation:
    """Turn one of pydantic's findings into a field's path, what is wrong with it and what it accepts."""
    path, remedy = part, ""
    for step in finding["loc"]:
        if isinstance(step, int):
            path += f"[{step}]"
            continue
        path += f".{step}"
        field = kind.model_fields.get(step)
        if field is None:
            remedy = f"known fields are {', '.join(kind.model_fields)}"
            continue
        remedy = f"expected {field.description}"
        kind = _item_model(field.annotation) or kind
    context = finding.get("ctx", {})
    if "field" in context:
        return FieldViolation(f"{path}.{context['field']}", f"{context['problem']}; {context['remedy']}")
    problem = finding["msg"][0].lower() + finding["msg"][1:]
    if finding["type"] == "value":
        problem = f"{_shortened(finding['input'])} {problem}"
    elif finding["type"] not in ("missing", "extra_forbidden"):
        problem += f", not {_shortened(finding['input'])}"
    return FieldViolation(path, f"{problem}; {remedy}" if remedy else problem)


def _item_model(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
