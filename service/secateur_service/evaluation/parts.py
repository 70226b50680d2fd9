"""The parts of a report: each figure once, with its meaning. The published schema is generated from them."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from secateur._bands import SCALE, Band, band_of
from secateur_service.evaluation.perplexity import Likeness, Losses, bits_per_byte, perplexity

NORMAL_975 = 1.959964
"""The 0.975 quantile of the normal distribution: half of a 95 % interval, in standard errors."""
Share = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    """Common rules: no unknown fields, finite numbers, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, from_attributes=True)


class JobPart(Part):
    """The job and the software."""

    id: str
    secateur_version: str
    device: str | None = Field(default=None, description="what it was computed on; null in older reports")


class ModelPart(Part):
    """The dense model."""

    uri: str
    digest: str = Field(description="SHA-256 over its configuration and weights")
    model_type: str = Field(description="transformers' name of the architecture")
    parameters: int = Field(ge=1)
    blocks: int = Field(ge=1, description="decoder blocks")
    size_bytes: int = Field(ge=1, description="bytes of all tensors")
    decoding_bytes: int = Field(ge=1, description="as in `output`")
    cache_bytes: int = Field(ge=0, description="as in `output`")
    dtype: str = Field(description="stored type of the weights")
    vocabulary: int | None = Field(default=None, description="rows of the embedding; null in older reports")
    max_positions: int | None = Field(
        default=None,
        description="the longest sequence that its configuration allows; null if it does not say, and in older reports",
    )


class OutputPart(Part):
    """The output model, whose shape may differ from that of the dense model."""

    parameters: int = Field(ge=1)
    blocks: int = Field(ge=1, description="decoder blocks")
    size_bytes: int = Field(ge=1, description="bytes of all tensors")
    decoding_bytes: int = Field(
        ge=1,
        description="bytes of weights that are read for every token generated: all but the embedding, of which "
        "one row is read, and of a mixture of experts those that a token is routed to",
    )
    cache_bytes: int = Field(
        ge=0, description="bytes of keys and values that are kept for every token of a context; 0 without attention"
    )


class IdentifiedPart(Part):
    """What language the documents of a text seem to be in."""

    documents: int = Field(description="documents examined")
    share: Share = Field(description="share of them that seem to be in the stated language")
    other: str = Field(description="the most frequent other language; empty if there is none")
    other_share: Share


_ROWS_WITHOUT_TEXT = Field(ge=0, description="rows of the corpus that were skipped because they have no text")
_CUT_TEXTS = Field(ge=0, description="long texts of the corpus that were cut into several documents")


class WindowsPart(Part):
    """How documents became windows, and which of their tokens are scored."""

    tokens: int = Field(description="length of a window; windows do not overlap")
    beginning: tuple[str, ...] = Field(
        description="tokens that begin every window, as the tokenizer begins a text; empty if it adds none"
    )
    separator: tuple[str, ...] = Field(description="tokens between two documents of a window")
    scored: Literal["text"] = Field(
        default="text",
        description="which tokens count in perplexity and bits per byte: those that stand for text and have a token "
        "before them in their window. Beginnings, ends and templates are context and are never scored; in schema "
        "version 1 they were, so that its figures do not compare with these",
    )


class CalibrationLanguage(Part):
    """The calibration text of one language of the mix."""

    language: str
    weight: Share = Field(description="share of the mix; the shares sum to one")
    documents: int
    sequences: int
    tokens: int = Field(description="tokens of all sequences")
    text_tokens: int = Field(description="those that stand for text; the others begin, separate or frame documents")
    bytes: int = Field(description="UTF-8 bytes of text that the text tokens stand for")
    bytes_per_token: float = Field(description="bytes per text token, the fitness of the tokenizer: higher is better")
    unknown_share: Share = Field(
        description="text tokens that are unknown or single bytes of a vocabulary that falls back to them"
    )
    digest: str = Field(description="SHA-256 of the token ids")
    dropped_texts: int | None = Field(
        description="texts of the dense model's own writing that were dropped; null if the text comes from the corpus"
    )
    rows_without_text: int = _ROWS_WITHOUT_TEXT
    cut_texts: int = _CUT_TEXTS
    identified: IdentifiedPart | None = Field(description="null if not requested, or if it cannot be determined")

    @classmethod
    def of(cls, *, unknown_tokens: int, **figures: Any) -> Self:
        """Compute the shares from the other figures.

        Args:
            unknown_tokens: text tokens that are unknown, or single bytes.
            figures: the other fields.
        """
        tokens = max(figures["text_tokens"], 1)
        return cls(bytes_per_token=figures["bytes"] / tokens, unknown_share=unknown_tokens / tokens, **figures)


Interval = tuple[float, float]


class IntervalsPart(Part):
    """Of a language's figures, with 95 % confidence: how far they depend on which documents were drawn.

    How other text of the language would score, such as that of another domain, they do not say.
    """

    documents: int = Field(description="that were resampled: those with a scored token")
    dense_perplexity: Interval
    pruned_perplexity: Interval
    perplexity_ratio: Interval = Field(description="of paired differences: both models read the same documents")
    dense_bits_per_byte: Interval
    pruned_bits_per_byte: Interval
    bits_per_byte_growth: Interval = Field(description="of pruned / dense - 1")
    kl_divergence: Interval | None
    agreement: Interval | None


class EvaluationLanguage(Part):
    """What pruning cost one language."""

    language: str
    in_mix: bool = Field(description="whether the model was calibrated on the language")
    windows: int
    documents: int | None = Field(default=None, description="that the windows touch; null in older reports")
    digest: str | None = Field(default=None, description="SHA-256 of the token ids; null in older reports")
    tokens: int = Field(description="scored tokens of the dense model: see `windows.scored`")
    bytes: int = Field(description="UTF-8 bytes of text that these tokens stand for")
    pruned_tokens: int = Field(
        description="scored tokens of the output model, for the same text; they differ if its vocabulary was trimmed"
    )
    pruned_bytes: int = Field(description="UTF-8 bytes of text that these tokens stand for")
    dense_perplexity: float = Field(description="exp(nats / tokens)")
    pruned_perplexity: float = Field(
        description="exp(nats / tokens), for `bytes` of text and per token of the dense model, so that the two are "
        "comparable whatever the vocabularies"
    )
    perplexity_ratio: float = Field(description="pruned / dense; 1 means nothing was lost")
    band: Band | None = Field(default=None, description=f"of that ratio, in a word: {SCALE}. Null in older reports")
    dense_bits_per_byte: float = Field(description="nats / (ln 2 · bytes); comparable between languages and tokenizers")
    pruned_bits_per_byte: float
    kl_divergence: float | None = Field(
        default=None,
        description="mean over the scored tokens of KL(dense ‖ output) of the predictions, nats per token; 0 if both "
        "predict alike; null if the two models have different tokens, or if it is no number",
    )
    agreement: Share | None = Field(
        default=None, description="share of the scored tokens for which both find the same one most probable; likewise"
    )
    intervals: IntervalsPart | None = Field(default=None, description="null with fewer than 10 documents")
    rows_without_text: int = _ROWS_WITHOUT_TEXT
    cut_texts: int = _CUT_TEXTS
    identified: IdentifiedPart | None = Field(description="null if not requested, or if it cannot be determined")

    @property
    def growth(self) -> float:
        """The share by which bits per byte grew."""
        return self.pruned_bits_per_byte / self.dense_bits_per_byte - 1

    @property
    def log_growth_error(self) -> float | None:
        """The standard error of the logarithm of the perplexity's growth, from its interval."""
        if self.intervals is None:
            return None
        low, high = map(math.log, self.intervals.perplexity_ratio)
        return (high - low) / (2 * NORMAL_975)

    @classmethod
    def of(cls, *, dense: Losses, pruned: Losses, likeness: Likeness | None = None, **figures: Any) -> Self:
        """Compute the figures from the losses.

        Args:
            dense: losses of the dense model.
            pruned: losses of the output model, over the same text in its own tokens.
            likeness: of their predictions; None where their tokens differ.
            figures: the other fields.
        """
        before = perplexity(dense.nats, dense.tokens)
        after = perplexity(pruned.nats * (dense.bytes / pruned.bytes), dense.tokens)
        return cls(
            tokens=dense.tokens,
            bytes=dense.bytes,
            pruned_tokens=pruned.tokens,
            pruned_bytes=pruned.bytes,
            dense_perplexity=before,
            pruned_perplexity=after,
            perplexity_ratio=after / before,
            band=band_of(after / before),
            dense_bits_per_byte=bits_per_byte(dense.nats, dense.bytes),
            pruned_bits_per_byte=bits_per_byte(pruned.nats, pruned.bytes),
            kl_divergence=likeness and likeness.nats / likeness.tokens,
            agreement=likeness and likeness.agreed / likeness.tokens,
            **figures,
        )


class VocabularyLanguage(Part):
    """What trimming the vocabulary means for a language; null where it was not counted or not evaluated."""

    expected_extra_tokens: float | None = Field(
        description="share of further tokens that its text was expected to take, from counts and a prior"
    )
    extra_tokens: float | None = Field(description="the share that its evaluation text takes, which was not counted")
    coverage: Share | None = Field(description="share of the dense model's evaluation tokens that were kept")
    counted_bytes: int | None = Field(description="UTF-8 bytes of text whose tokens were counted")


class VocabularyPart(Part):
    """A trimmed vocabulary."""

    rows: int = Field(ge=1, description="rows of the output model's embedding")
    rows_before: int = Field(ge=1, description="rows of the dense model's")
    languages: dict[str, VocabularyLanguage]


class TaskPart(Part):
    """What pruning cost in a metric of a task; null is what cannot be computed, such as the error of one item."""

    task: str = Field(description="lm-evaluation-harness' name of it")
    language: str | None = Field(description="null if neither the task nor its name says")
    metric: str = Field(description="lm-evaluation-harness' name of it")
    samples: int = Field(ge=1, description="items, the same for both models")
    dense: float | None
    pruned: float | None
    dense_stderr: float | None = Field(description="standard error: of a mean s/√n, else by the jackknife")
    pruned_stderr: float | None
    difference: float | None = Field(description="pruned − dense")
    difference_stderr: float | None = Field(
        description="standard error of the difference, item by item: smaller than those of both figures suggest"
    )
    flips: float | None = Field(
        description="share of items that one model has right and the other wrong; null if items are not right or wrong"
    )
    items: str = Field(
        default="", description="SHA-256 of the items and of what was asked of them: equal where the same was asked"
    )
    higher_is_better: bool | None = Field(
        default=None, description="of the metric; null if the task does not say, and in older reports"
    )


class EvidencePart(Part):
    """The figure that a verdict rests on."""

    figure: str = Field(description="what was measured")
    estimate: float
    threshold: float = Field(description="from which on, or below which, the verdict is given")
    interval: Interval | None = Field(default=None, description="of the estimate, with 95 % confidence")
    z: float | None = Field(
        default=None,
        description="test statistic: how many standard errors the logarithm of the estimate is from 0; of a task "
        "McNemar's, the difference over the square root of the items that flipped; of an affinity, how many standard "
        "deviations of the mix's own text it is from the mean of that",
    )


class Verdict(Part):
    """What the figures mean."""

    kind: str = Field(description="stable, UPPER_SNAKE_CASE")
    language: str | None = Field(description="null where it concerns the model as a whole")
    message: str
    evidence: EvidencePart | None = Field(default=None, description="null where nothing was compared with a threshold")
