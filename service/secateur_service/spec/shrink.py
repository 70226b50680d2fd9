"""The part `shrink` of a specification: what is removed as a whole, so that the model becomes smaller."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from secateur_service.spec.base import Broken, LanguageTag, Part, named_twice


class VocabularySpec(Part):
    """How many rows of the vocabulary are kept. Exactly one of `extra_tokens` and `rows` is given."""

    extra_tokens: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="the share of further tokens that every kept language may need, between 0 and 1, e.g. 0.005",
    )
    rows: int | None = Field(
        default=None, ge=1, lt=2**31, description="the number of rows to keep, rounded up to a multiple of 64"
    )
    keep_texts: tuple[Annotated[str, Field(min_length=1, max_length=4096)], ...] = Field(
        default=(), max_length=256, description="texts whose tokens are kept, such as names of products"
    )

    def broken_rules(self) -> Iterator[Broken]:
        """Check that there is one target."""
        if (self.extra_tokens is None) == (self.rows is None):
            yield Broken(
                "extra_tokens",
                "exactly one of extra_tokens and rows is needed",
                "e.g. extra_tokens 0.005, or rows 32768",
            )


class ShrinkSpec(Part):
    """What is removed from the model as a whole."""

    vocabulary: VocabularySpec | None = Field(
        default=None, description=f"a part with {', '.join(VocabularySpec.model_fields)}"
    )
    keep_languages: tuple[LanguageTag, ...] = Field(
        default=(), max_length=256, description="languages of the mix that the smaller model has to serve, each once"
    )

    @field_validator("keep_languages")
    @classmethod
    def _check_languages(cls, languages: tuple[str, ...]) -> tuple[str, ...]:
        twice = named_twice(languages)
        if twice:
            raise PydanticCustomError("value", "names a language twice: {twice}", {"twice": "; ".join(twice)})
        return languages

    def broken_rules(self) -> Iterator[Broken]:
        """Check that something is removed."""
        if self.vocabulary is None:
            yield Broken("vocabulary", "nothing is to be removed", "give the vocabulary, or leave shrink out")
