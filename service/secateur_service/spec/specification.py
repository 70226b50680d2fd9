"""The specification of a prune job, and its single validator.

Every surface (gRPC, `secateur-service run`, the command line) ends here. `parse_spec` checks each part by itself, so
that all broken rules come back together, and turns pydantic's findings into field violations that name the remedy:
the description of a field says what it accepts, `Part.broken_rules` what fields must obey together.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from secateur._terminal import first_unsafe
from secateur_service.calibration.corpora import DEFAULT_TEXT_FIELD
from secateur_service.calibration.languages import parse_language, spelling_of
from secateur_service.calibration.mixing import (
    DEFAULT_TEMPERATURE,
    POLICIES,
    POLICIES_BY_SHARE,
    known_share,
    mixing_weights,
)
from secateur_service.calibration.presets import DEFAULT_PRESET
from secateur_service.errors import FieldViolation, InvalidSpecError
from secateur_service.pruning.methods import (
    GROUPS,
    METHODS,
    UPDATES,
    Moments,
    Recipe,
    goes_together,
    options_of,
)
from secateur_service.spec.validation_errors import independent, violations_of

SPEC_FORMAT = 1
"""Raised with every change after which an older release would refuse a resolved specification, or run it differently.
A job says in which format its specification is; replicas that know only smaller numbers do not claim it."""

ORDERS = ("block", "true_sequential", "dense")
ALLOCATIONS = ("uniform", "owl", "multilingual")
# By the table that benchmarks/method_table.py keeps: near the best at every target, at a fraction of the best's cost.
DEFAULT_METHOD = "sparsegpt"
DEFAULT_UPDATE = "cg"
DEFAULT_ORDER: Literal["block", "true_sequential", "dense"] = "true_sequential"
DEFAULT_SPAN = 0.08
DEFAULT_OUTLIER = 5.0
DEFAULT_SAMPLES = 128
DEFAULT_SEQUENCE_LENGTH = 2048
DEFAULT_TOKENS_PER_LANGUAGE = 65536
DEFAULT_PREFIX_TOKENS = 64

_CORPUS = (
    "a preset such as mc4, or a folder with one text file per language: hf://datasets/org/name, s3://bucket/prefix or "
    "file:///absolute/path"
)
_CHAT_TEMPLATE = "true or false: whether documents are put into the model's chat template"
_TEXT_FIELD = "the name that the text has in JSON objects and parquet tables, text by default"
_SHARE = "a share strictly between 0 and 1, e.g. 0.5"
_PATTERN = "N:M with 0 < N < M, e.g. 2:4: N weights kept of every M consecutive inputs"


def _known_language(tag: str) -> str:
    """The language in canonical form, which remembers how it was written."""
    try:
        return parse_language(tag)
    except ValueError as error:
        raise PydanticCustomError("value", "is not a language that BCP 47 knows") from error


def _method(name: str) -> str:
    """One that is registered by now."""
    if name not in METHODS:
        raise PydanticCustomError("value", "is no method")
    return name


def _update(name: str) -> str:
    """Likewise."""
    if name not in UPDATES:
        raise PydanticCustomError("value", "is no update")
    return name


def _named_twice(languages: Iterable[str]) -> list[str]:
    """What to say of each language that is there twice, under one name or under two."""
    first: dict[str, str] = {}
    twice = []
    for language in languages:
        known, spelling = first.get(language), spelling_of(language)
        first.setdefault(language, spelling)
        if known is not None:
            same = known == spelling
            twice.append(f"{known} is there twice" if same else f"{known} and {spelling} are one language, {language}")
    return twice


def _keeps_and_prunes(pattern: str) -> str:
    match = re.fullmatch(r"([0-9]+):([0-9]+)", pattern)
    if not match or not 0 < int(match[1]) < int(match[2]):
        raise PydanticCustomError("value", "is not a pattern that keeps some weights and prunes some")
    return pattern


LanguageTag = Annotated[str, Field(max_length=64), AfterValidator(_known_language)]
TextField = Annotated[str, Field(min_length=1, max_length=128)]
Uri = Annotated[str, Field(min_length=1, max_length=1024)]
Sparsity = Annotated[float, Field(gt=0, lt=1)]
Pattern = Annotated[str, Field(max_length=16), AfterValidator(_keeps_and_prunes)]


class Broken(NamedTuple):
    """A rule between fields that is broken: at which field, how, and what to do."""

    field: str
    problem: str
    remedy: str


class Part(BaseModel):
    """Common rules: no unknown fields, finite numbers, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _check_text(cls, value: Any) -> Any:
        unsafe = first_unsafe(value) if isinstance(value, str) else None
        if unsafe is not None:
            raise PydanticCustomError("value", "holds a character that no terminal shows ({where})", {"where": unsafe})
        return value

    def broken_rules(self) -> Iterator[Broken]:
        """The rules between the fields of this part that it breaks."""
        return iter(())

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        broken = tuple(self.broken_rules())
        if broken:
            raise PydanticCustomError("rules", "breaks rules between its fields", {"broken": broken})
        return self


class ModelSpec(Part):
    """The model to prune."""

    uri: Uri = Field(description="a safetensors checkpoint: hf://org/name, s3://bucket/prefix or file:///absolute/path")
    revision: Annotated[str, Field(min_length=1, max_length=255)] | None = Field(
        default=None, description="of a repository: a branch, tag or commit; its main branch by default"
    )


class LanguageWeight(Part):
    """One language of the mix."""

    language: LanguageTag = Field(description="a BCP 47 tag such as de, uk or zh-Hant")
    weight: float | None = Field(
        default=None, ge=0, le=1e12, description="a number from 0 to 1e12, not negative; weights are normalised"
    )


class GenerationSpec(Part):
    """Calibration text that the dense model writes; the defaults are in the ranges of Ji et al., 2410.17711."""

    prefix_tokens: int | None = Field(
        default=None, ge=1, le=65536, description="tokens of a document to go on from, at least 1"
    )
    new_tokens: int | None = Field(
        default=None,
        ge=1,
        le=65536,
        description="tokens to add at the most, at least 1; by default a sequence is filled",
    )
    temperature: float = Field(default=0.8, ge=0.01, le=100, description="a number from 0.01 to 100, e.g. 0.8")
    top_p: float = Field(default=0.95, gt=0, le=1, description="a probability above 0, at most 1")
    top_k: int = Field(default=50, ge=1, le=1_000_000, description="a whole number of at least 1")
    repetition_penalty: float = Field(default=1.1, ge=1, le=100, description="a number of at least 1")
    dropped_share: float = Field(default=0.2, ge=0, lt=1, description="a share of at least 0 and less than 1, e.g. 0.2")

    def resolved(self, sequence_length: int) -> Self:
        """The same with no default left open: a prefix of at most a quarter of a sequence, which is then filled."""
        prefix = self.prefix_tokens or min(DEFAULT_PREFIX_TOKENS, max(1, sequence_length // 4))
        new = self.new_tokens or max(1, sequence_length - prefix)
        return self.model_copy(update={"prefix_tokens": prefix, "new_tokens": new})


class CalibrationSpec(Part):
    """The text that decides what the pruned model keeps."""

    corpus: Uri = Field(default=DEFAULT_PRESET, description=_CORPUS)
    text_field: TextField = Field(default=DEFAULT_TEXT_FIELD, description=_TEXT_FIELD)
    chat_template: bool = Field(default=False, description=_CHAT_TEMPLATE)
    generation: GenerationSpec | None = Field(
        default=None, description=f"a part with {', '.join(GenerationSpec.model_fields)}; empty for the defaults"
    )
    identify_languages: bool = Field(
        default=True, description="true or false: whether the language of the text is guessed, to warn of another"
    )
    document_separator: Literal["newline", "end_of_text"] = Field(
        default="newline", description="what stands between two documents of a sequence: newline or end_of_text"
    )
    languages: tuple[LanguageWeight, ...] = Field(
        min_length=1, max_length=256, description="at least one language with its weight, e.g. de: 0.7, en: 0.3"
    )
    samples: int = Field(
        default=DEFAULT_SAMPLES, ge=1, le=1_000_000, description="sequences in all, at least one per language"
    )
    sequence_length: int | None = Field(default=None, ge=2, le=1_048_576, description="tokens per sequence, at least 2")
    seed: int = Field(default=0, ge=0, lt=2**63, description="a whole number that is not negative")
    policy: Literal["weights", "proportional", "temperature", "minimax"] = Field(
        default="weights", description="one of " + ", ".join(POLICIES)
    )
    temperature: float | None = Field(
        default=None, ge=1, description="a number of at least 1: 1 keeps the shares, a large one evens them out"
    )

    def broken_rules(self) -> Iterator[Broken]:
        """A mix that can be drawn and weighed."""
        if self.generation is not None and self.chat_template:
            yield Broken(
                "generation",
                "does not go with chat_template: the model continues plain text, not conversations",
                "leave one out",
            )
        tags = [entry.language for entry in self.languages]
        given = [entry.weight for entry in self.languages if entry.weight is not None]
        for twice in _named_twice(tags):
            yield Broken("languages", twice, "merge its entries: each language may appear once")
        if len(given) == len(tags) and not any(given):
            yield Broken("languages", "the weights sum to zero", "give at least one language a positive weight")
        if self.samples < len(tags):
            yield Broken(
                "samples", f"{self.samples} samples cannot serve {len(tags)} languages", "ask for more samples"
            )
        if self.temperature is not None and self.policy != "temperature":
            yield Broken("temperature", f"the policy {self.policy} has none", "leave it out, or use policy temperature")
        if self.policy == "minimax" and len(tags) - given.count(0) < 2:
            yield Broken("policy", "minimax balances languages", "give at least two of them a positive weight")
        if self.policy in POLICIES_BY_SHARE:
            if 0 < len(given) < len(tags):
                yield Broken(
                    "languages",
                    f"with policy {self.policy} the weights are shares, and some languages have none",
                    "give every language its share, or none for the shares of mC4",
                )
            unknown = [] if given else [tag for tag in tags if known_share(tag) is None]
            if unknown:
                yield Broken(
                    "languages",
                    f"mC4 has no share of {', '.join(unknown)}",
                    "give every language its share as its weight",
                )

    @property
    def samples_per_language(self) -> int:
        """Sequences of each language; what does not divide evenly is left out."""
        return self.samples // len(self.languages)

    @property
    def mix(self) -> dict[str, float]:
        """Mixing weight of each language by the policy, for minimax the first ones; they sum to one."""
        temperature = self.temperature or DEFAULT_TEMPERATURE if self.policy == "temperature" else 1.0
        return mixing_weights({entry.language: self._share(entry) for entry in self.languages}, temperature)

    def _share(self, entry: LanguageWeight) -> float:
        if entry.weight is not None:
            return entry.weight
        share = known_share(entry.language) if self.policy in POLICIES_BY_SHARE else 1.0
        assert share is not None  # broken_rules has seen to it
        return share

    def resolved(self, sequence_length: int) -> Self:
        """The same with no default left open: of the policies that only yield weights, the weights."""
        mix = self.mix
        return self.model_copy(
            update={
                "generation": self.generation and self.generation.resolved(sequence_length),
                "languages": tuple(LanguageWeight(language=name, weight=weight) for name, weight in mix.items()),
                "policy": "minimax" if self.policy == "minimax" else "weights",
                "temperature": None,
                "sequence_length": sequence_length,
            }
        )


class AllocationSpec(Part):
    """How sparse each block becomes; all together have the sparsity that was asked for."""

    policy: Literal["uniform", "owl", "multilingual"] = Field(
        default="uniform", description="one of " + ", ".join(ALLOCATIONS)
    )
    span: float | None = Field(
        default=None, gt=0, lt=0.5, description="half the range of the blocks' sparsities, between 0 and 0.5, e.g. 0.08"
    )
    outlier: float | None = Field(
        default=None, gt=0, le=1e6, description="a multiple of a block's mean score, above which a score is an outlier"
    )

    def broken_rules(self) -> Iterator[Broken]:
        """No number that nothing reads."""
        if self.span is not None and self.policy == "uniform":
            yield Broken("span", "a uniform allocation has none", "leave it out, or choose another policy")
        if self.outlier is not None and self.policy == "uniform":
            yield Broken("outlier", "a uniform allocation counts none", "leave it out, or choose another policy")


class LayerOverride(Part):
    """What happens to the layers of a name instead of what happens to the others."""

    layers: str = Field(
        min_length=1,
        max_length=256,
        description="a name of weights as in the checkpoint, with * and ?, e.g. model.layers.0.* or *.down_proj.weight",
    )
    sparsity: Sparsity | None = Field(default=None, description=_SHARE)
    pattern: Pattern | None = Field(default=None, description=_PATTERN)
    dense: Literal[True] | None = Field(default=None, description="true, or nothing")

    def broken_rules(self) -> Iterator[Broken]:
        """One thing happens to a layer."""
        if sum(choice is not None for choice in (self.sparsity, self.pattern, self.dense)) != 1:
            yield Broken("sparsity", "exactly one of sparsity, pattern and dense is needed", "e.g. dense: true")

    @property
    def kept_of_group(self) -> tuple[int, int] | None:
        """(N, M) of the pattern, None without one."""
        return _kept_of_group(self.pattern)


class PruningSpec(Part):
    """How much is pruned, and by what rule. Exactly one of `sparsity` and `pattern` is given."""

    method: Annotated[str, AfterValidator(_method)] | None = Field(
        default=None, description="one of " + ", ".join(METHODS)
    )
    update: Annotated[str, AfterValidator(_update)] | None = Field(
        default=None, description=f"one of {', '.join(UPDATES)}; the method's own where only a method is given"
    )
    sparsity: Sparsity | None = Field(default=None, description=_SHARE)
    pattern: Pattern | None = Field(default=None, description=_PATTERN)
    order: Literal["block", "true_sequential", "dense"] = Field(
        default=DEFAULT_ORDER, description="one of " + ", ".join(ORDERS)
    )
    group: Literal["row", "layer"] | None = Field(
        default=None, description=f"one of {', '.join(GROUPS)}; the method's own where it is not given"
    )
    spread: float | None = Field(
        default=None, ge=0, le=1e6, description="a number that is not negative; 0 makes it wanda"
    )
    allocation: AllocationSpec = Field(default=AllocationSpec(), description="policy, span and outlier")
    overrides: tuple[LayerOverride, ...] = Field(
        default=(), max_length=256, description="names of layers, each with sparsity, pattern or dense; the last holds"
    )

    def broken_rules(self) -> Iterator[Broken]:
        """One target, and parts that go together."""
        if (self.sparsity is None) == (self.pattern is None):
            yield Broken(
                "sparsity", "exactly one of sparsity and pattern is needed", "e.g. sparsity 0.5, or pattern 2:4"
            )
        if not goes_together(self.effective_method, self.effective_update):
            yield Broken(
                "update",
                f"{self.update} does not go with {self.effective_method}",
                f"it takes {', '.join(name for name in UPDATES if goes_together(self.effective_method, name))}",
            )
        if self.pattern is not None and self.group is not None:
            yield Broken("group", f"{self.pattern} compares within its groups of inputs", "leave it out")
        if self.pattern is not None and self.allocation.policy != "uniform":
            yield Broken(
                "allocation.policy", f"{self.pattern} prunes every layer alike", "give a sparsity, or leave it out"
            )
        if self.spread is not None and "spread" not in options_of(self.effective_method):
            others = ", ".join(name for name in METHODS if "spread" in options_of(name))
            yield Broken("spread", f"{self.effective_method} has none", f"leave it out, or use method {others}")

    @property
    def effective_method(self) -> str:
        """The method that runs."""
        return self.method or DEFAULT_METHOD

    @property
    def effective_update(self) -> str:
        """The update that runs: what is best where nothing is asked for, and what a method is known for where it is."""
        return self.update or (METHODS[self.method].update if self.method else DEFAULT_UPDATE)

    @property
    def effective_group(self) -> str:
        """The weights that compete where the pruning is unstructured."""
        return self.group or METHODS[self.effective_method].group

    @property
    def recipe(self) -> Recipe:
        """Score and update."""
        return Recipe.of(self.effective_method, self.effective_update, spread=self.spread)

    @property
    def kept_of_group(self) -> tuple[int, int] | None:
        """(N, M) of the pattern, None where the pruning is unstructured."""
        return _kept_of_group(self.pattern)

    @property
    def target_sparsity(self) -> float:
        """The share of weights to prune, whichever way it was asked for."""
        if self.sparsity is not None:
            return self.sparsity
        assert self.kept_of_group is not None
        kept, group = self.kept_of_group
        return 1 - kept / group

    def override_of(self, weight: str) -> LayerOverride | None:
        """The last override whose `layers` match the name of a weight; None where the job's own target holds."""
        matching = (entry for entry in reversed(self.overrides) if fnmatch.fnmatchcase(weight, entry.layers))
        return next(matching, None)

    def resolved(self) -> Self:
        """The same with no default left open."""
        allocation = self.allocation
        if allocation.policy != "uniform":
            numbers = {"span": allocation.span or DEFAULT_SPAN, "outlier": allocation.outlier or DEFAULT_OUTLIER}
            allocation = allocation.model_copy(update=numbers)
        return self.model_copy(
            update={
                "method": self.effective_method,
                "update": self.effective_update,
                "group": self.effective_group if self.pattern is None else None,
                "spread": self.recipe.options.get("spread"),
                "allocation": allocation,
            }
        )


class EvaluationSpec(Part):
    """The text on which the dense and the pruned model are compared."""

    corpus: Uri | None = Field(default=None, description=_CORPUS)
    text_field: TextField | None = Field(default=None, description=_TEXT_FIELD)
    chat_template: bool | None = Field(default=None, description=_CHAT_TEMPLATE)
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
        twice = _named_twice(languages)
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
            for finding in independent(error.errors()):
                violations.extend(violations_of(name, kind, finding))
    if "calibration" in parts and "pruning" in parts:
        between = _broken_between(parts["calibration"], parts["pruning"])
        violations += [FieldViolation(rule.field, f"{rule.problem}; {rule.remedy}") for rule in between]
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


def _broken_between(calibration: CalibrationSpec, pruning: PruningSpec) -> Iterator[Broken]:
    """The rules between the mix and the method that are broken."""
    if calibration.policy == "minimax" and pruning.recipe.moments is Moments.NONE:
        yield Broken(
            "calibration.policy",
            f"{pruning.effective_method} with update none looks at no text, so that there is nothing to balance",
            "choose another method or update, or leave the policy out",
        )


def _kept_of_group(pattern: str | None) -> tuple[int, int] | None:
    if pattern is None:
        return None
    kept, group = pattern.split(":")
    return int(kept), int(group)
