"""The part `calibration` of a specification: which text the model is pruned for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Self

from pydantic import Field

from secateur_service.calibration.corpora import DEFAULT_TEXT_FIELD
from secateur_service.calibration.mixing import (
    DEFAULT_TEMPERATURE,
    POLICIES,
    POLICIES_BY_SHARE,
    known_share,
    mixing_weights,
)
from secateur_service.calibration.presets import DEFAULT_PRESET
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

DEFAULT_SAMPLES = 128
DEFAULT_SEQUENCE_LENGTH = 2048
DEFAULT_PREFIX_TOKENS = 64


class LanguageWeight(Part):
    """One language of the mix."""

    language: LanguageTag = Field(description="a BCP 47 tag such as de, uk or zh-Hant")
    weight: float | None = Field(
        default=None, ge=0, le=1e12, description="a number from 0 to 1e12, not negative; weights are normalised"
    )


class GenerationSpec(Part):
    """Calibration text that the dense model writes; the defaults are in the ranges of Ji et al., 2410.17711."""

    prefix_tokens: int | None = Field(
        default=None, ge=1, le=65536, description="tokens of a document to continue, at least 1"
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

    corpus: Uri = Field(default=DEFAULT_PRESET, description=CORPUS)
    text_field: TextField = Field(default=DEFAULT_TEXT_FIELD, description=TEXT_FIELD)
    chat_template: bool = Field(default=False, description=CHAT_TEMPLATE)
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
        for twice in named_twice(tags):
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
