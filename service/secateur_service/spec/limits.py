"""The part `limits` of a specification: how much a result may lose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Self

from pydantic import Field, WrapValidator

from secateur_service.spec.base import Broken, LanguageTag, Part, is_nothing, named_twice

OTHERS = "*"
"""In place of a language: every evaluated one that has no limit of its own."""


def _or_others(value: Any, language: Callable[[Any], str]) -> str:
    return OTHERS if value == OTHERS else language(value)


class LanguageLimit(Part):
    """How much one language may lose."""

    language: Annotated[LanguageTag, WrapValidator(_or_others)] = Field(
        description="a BCP 47 tag such as de, uk or zh-Hant; * for all that are evaluated and have none of their own"
    )
    growth: float = Field(
        ge=0, le=1000, description="the share by which its bits per byte may grow, e.g. 0.01 for one per cent"
    )


class LimitsSpec(Part):
    """What a job may cost; one that costs more ends without a checkpoint."""

    languages: tuple[LanguageLimit, ...] = Field(
        default=(), max_length=256, description="languages with the growth that is allowed, e.g. uk: 0.01"
    )
    task_loss: float | None = Field(
        default=None,
        ge=0,
        le=1,
        exclude_if=is_nothing,
        description="what a metric of a task may lose, e.g. 0.02 for two items of a hundred",
    )

    def resolved(self, evaluated: Sequence[str]) -> Self:
        """The same with a limit for each language, where one was given for the others."""
        given = {entry.language: entry.growth for entry in self.languages}
        if OTHERS not in given:
            return self
        others = given.pop(OTHERS)
        growths = given | {language: others for language in evaluated if language not in given}
        limits = tuple(LanguageLimit(language=language, growth=growth) for language, growth in growths.items())
        return self.model_copy(update={"languages": limits})

    def broken_rules(self) -> Iterator[Broken]:
        """There is a limit, and no language has two."""
        if not self.languages and self.task_loss is None:
            yield Broken("languages", "there is no limit", "name a language, give task_loss, or leave limits out")
        for twice in named_twice(entry.language for entry in self.languages):
            yield Broken("languages", twice, "give each language one limit")
