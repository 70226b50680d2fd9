"""The part `shrink` of a specification: what is removed as a whole, so that the model becomes smaller."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from secateur_service.records.blocks import Axis
from secateur_service.spec.base import Broken, LanguageTags, Part, Uri


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
    prior: Literal["ranks", "words"] = Field(
        default="ranks",
        description="what is known of tokens that were not counted: ranks, their order in the vocabulary, or words, "
        "also how often the language uses each word",
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
        """Check that something is removed."""
        parts = [
            name for name in ("vocabulary", "blocks", "feed_forward", "kv_heads") if getattr(self, name) is not None
        ]
        if not parts and self.plan is None:
            remedy = "give vocabulary, blocks, feed_forward, kv_heads or plan, or leave shrink out"
            yield Broken("vocabulary", "nothing is to be removed", remedy)
        if self.plan is not None:
            for name in parts:
                yield Broken(name, "the plan says what is removed", "leave one out")

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes along which every block becomes narrower; with the plan of another job, those along which it may."""
        asked: dict[Axis, object] = {"attention": self.kv_heads, "feed_forward": self.feed_forward}
        return tuple(axis for axis, part in asked.items() if part is not None or self.plan is not None)
