"""The part `limits` of a specification: how much a result may lose."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from secateur_service.spec.base import Broken, LanguageTag, Part, is_nothing, named_twice


class LanguageLimit(Part):
    """How much one language may lose."""

    language: LanguageTag = Field(description="a BCP 47 tag such as de, uk or zh-Hant")
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

    def broken_rules(self) -> Iterator[Broken]:
        """There is a limit, and no language has two."""
        if not self.languages and self.task_loss is None:
            yield Broken("languages", "there is no limit", "name a language, give task_loss, or leave limits out")
        for twice in named_twice(entry.language for entry in self.languages):
            yield Broken("languages", twice, "give each language one limit")
