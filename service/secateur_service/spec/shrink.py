"""The part `shrink` of a specification: what is removed as a whole, so that the model becomes smaller."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Literal, get_args

from pydantic import Field

from secateur_service.records.blocks import Axis
from secateur_service.spec.base import Broken, LanguageTag, LanguageTags, Part, Uri, named_twice


class TokenWeight(Part):
    """How dear a further token is in one language."""

    language: LanguageTag = Field(description="a BCP 47 tag such as de, uk or zh-Hant")
    weight: float = Field(ge=0.01, le=100, description="a number from 0.01 to 100, e.g. 2")


class VocabularySpec(Part):
    """How many rows of the vocabulary are kept: `extra_tokens` or `rows`, or with a budget neither."""

    extra_tokens: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="the share of further tokens that every kept language may need, between 0 and 1, e.g. 0.005",
    )
    rows: int | None = Field(
        default=None, ge=1, lt=2**31, description="the number of rows to keep, rounded up to a multiple of 64"
    )
    prior: Literal["model", "ranks", "words"] = Field(
        default="model",
        description="what is known of tokens that were not counted: model, how often it expects them; ranks, their "
        "order in the vocabulary; or words, how often the language uses each word",
    )
    weights: tuple[TokenWeight, ...] = Field(
        default=(), max_length=256, description="how dear a further token is in a kept language, e.g. en: 2; else 1"
    )
    keep_texts: tuple[Annotated[str, Field(min_length=1, max_length=4096)], ...] = Field(
        default=(), max_length=256, description="texts whose tokens are kept, such as names of products"
    )

    def broken_rules(self) -> Iterator[Broken]:
        """Check that no language has two weights."""
        for twice in named_twice(entry.language for entry in self.weights):
            yield Broken("weights", twice, "give each language one weight")

    def weight_of(self, language: str) -> float:
        """How dear a further token is in a language."""
        return next((entry.weight for entry in self.weights if entry.language == language), 1.0)


_LARGEST_MULTIPLE = 256  # what quantised formats and tensor parallelism ask for


class FeedForwardSpec(Part):
    """How many channels of the feed-forward layers are removed, of every block as many."""

    share: float | None = Field(
        default=None, gt=0, lt=1, description="the share of channels to remove, between 0 and 1, e.g. 0.25"
    )
    channels: int | None = Field(default=None, ge=1, lt=2**31, description="the number of channels to keep")
    multiple_of: int | None = Field(
        default=None, ge=1, lt=2**31, description="what the kept number is a multiple of, with share, e.g. 256"
    )

    def broken_rules(self) -> Iterator[Broken]:
        """Check that there is one target."""
        if (self.share is None) == (self.channels is None):
            yield Broken("share", "exactly one of share and channels is needed", "e.g. share 0.25, or channels 11264")
        if self.channels is not None and self.multiple_of is not None:
            yield Broken("multiple_of", "the number of channels is given", "leave one out")

    def channels_of(self, width: int) -> int:
        """The channels that are kept of so many: the nearest multiple, at least one of it."""
        if self.channels is not None:
            return self.channels
        assert self.share is not None
        multiple = self.multiple_for(width)
        return max(1, math.floor(width * (1 - self.share) / multiple + 0.5)) * multiple

    def multiple_for(self, width: int) -> int:
        """What the kept number of so many channels is a multiple of."""
        return self.multiple_of or math.gcd(width, _LARGEST_MULTIPLE)


class BlocksSpec(Part):
    """How many decoder blocks are removed."""

    remove: int = Field(ge=1, le=10_000, description="the number of blocks to remove")


class KvHeadsSpec(Part):
    """How many key/value heads are removed with their query heads, of every block as many."""

    remove: int = Field(ge=1, le=10_000, description="the number of key/value heads to remove from every block")


BudgetAxis = Literal["vocabulary", "blocks", "kv_heads", "feed_forward"]
BUDGET_AXES: tuple[BudgetAxis, ...] = get_args(BudgetAxis)


class BudgetSpec(Part):
    """How large the result may be; the service chooses what is removed."""

    parameters: float = Field(
        gt=0,
        lt=1,
        description="the share of the model's parameters that the result may have, between 0 and 1, e.g. 0.5",
    )
    axes: tuple[BudgetAxis, ...] = Field(
        default=(), max_length=len(BUDGET_AXES), description=f"what may be removed: some of {', '.join(BUDGET_AXES)}"
    )

    def broken_rules(self) -> Iterator[Broken]:
        """Check that no axis is named twice."""
        if len(set(self.axes)) < len(self.axes):
            yield Broken("axes", "names an axis twice", "name each once")


class ShrinkSpec(Part):
    """What is removed from the model as a whole."""

    vocabulary: VocabularySpec | None = Field(
        default=None, description=f"a part with {', '.join(VocabularySpec.model_fields)}"
    )
    feed_forward: FeedForwardSpec | None = Field(
        default=None, description=f"a part with {', '.join(FeedForwardSpec.model_fields)}"
    )
    blocks: BlocksSpec | None = Field(default=None, description=f"a part with {', '.join(BlocksSpec.model_fields)}")
    kv_heads: KvHeadsSpec | None = Field(default=None, description=f"a part with {', '.join(KvHeadsSpec.model_fields)}")
    budget: BudgetSpec | None = Field(
        default=None, description=f"instead of the amounts, a part with {', '.join(BudgetSpec.model_fields)}"
    )
    plan: Uri | None = Field(
        default=None,
        description="the folder of another job's result on the same model: s3://bucket/prefix or file:///absolute/path",
    )
    plan_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = Field(
        default=None, description="SHA-256 of its plan.json, 64 hexadecimal digits; filled in at submission"
    )
    keep_languages: LanguageTags = Field(
        default=(), description="languages of the mix that the smaller model has to serve, each once"
    )

    def broken_rules(self) -> Iterator[Broken]:
        """Check that something is removed, and that each amount is given once."""
        amounts = [
            name for name in ("vocabulary", "blocks", "feed_forward", "kv_heads") if getattr(self, name) is not None
        ]
        if not amounts and self.plan is None and self.budget is None:
            remedy = "give vocabulary, blocks, feed_forward, kv_heads, budget or plan, or leave shrink out"
            yield Broken("vocabulary", "nothing is to be removed", remedy)
        if self.plan is not None:
            for name in [*amounts, *["budget"] * (self.budget is not None)]:
                yield Broken(name, "the plan says what is removed", "leave one out")
        elif self.budget is not None:
            for name in amounts:
                if name != "vocabulary":
                    yield Broken(name, "with a budget, the service chooses how much of it is removed", "leave one out")
        yield from self._broken_rows()

    def _broken_rows(self) -> Iterator[Broken]:
        """Check that the vocabulary has one target; in a budget, none."""
        asked = self.vocabulary
        if asked is None or self.plan is not None:
            return
        given = [name for name in ("extra_tokens", "rows") if getattr(asked, name) is not None]
        if self.budget is not None:
            for name in given:
                yield Broken(f"vocabulary.{name}", "with a budget, the service chooses the rows", "leave one out")
            if self.budget.axes and "vocabulary" not in self.budget.axes:
                yield Broken("vocabulary", "budget.axes leaves the vocabulary as it is", "leave one out")
        elif len(given) != 1:
            yield Broken(
                "vocabulary.extra_tokens",
                "exactly one of extra_tokens and rows is needed",
                "e.g. extra_tokens 0.005, or rows 32768",
            )

    @property
    def changes_blocks(self) -> bool:
        """Whether blocks may lose something, and not only the vocabulary."""
        axes = self.budget.axes if self.budget else ()
        return any((self.feed_forward, self.blocks, self.kv_heads, self.plan, self.budget and axes != ("vocabulary",)))

    @property
    def needs_model(self) -> bool:
        """Whether the model has to be run to decide what is removed, apart from blocks."""
        return self.budget is not None or (self.vocabulary is not None and self.vocabulary.prior == "model")

    @property
    def trims(self) -> bool:
        """Whether the vocabulary is trimmed, or may be by a budget."""
        return self.vocabulary is not None or (self.budget is not None and "vocabulary" in self.budget.axes)

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes along which every block becomes narrower; or may, by a budget or the plan of another job."""
        asked: dict[Axis, object] = {"attention": self.kv_heads, "feed_forward": self.feed_forward}
        open_axes: dict[Axis, BudgetAxis] = {"attention": "kv_heads", "feed_forward": "feed_forward"}
        return tuple(
            axis
            for axis, part in asked.items()
            if part is not None or self.plan is not None or (self.budget and open_axes[axis] in self.budget.axes)
        )
