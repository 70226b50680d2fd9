"""The report of a job, `report.json`: what was asked for, what was kept and what was lost, per language.

It holds no times, durations or machine names, so that two attempts at one job write the same bytes; those are in
`provenance.json`. The models below are the one schema; what is published is generated from them:

    python -m secateur_service.evaluation.report > docs/report.schema.json
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from secateur_service.evaluation.perplexity import bits_per_byte, perplexity
from secateur_service.evaluation.verdicts import Verdict, judge

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class ModelFigures:
    """The dense model.

    Attributes:
        digest: SHA-256 that stands for its configuration and weights.
        parameters: number of its parameters; tied ones count once.
        dtype: type of the weights as they are stored, e.g. `bfloat16`.
    """

    uri: str
    digest: str
    model_type: str
    parameters: int
    blocks: int
    dtype: str


@dataclass(frozen=True)
class WindowFigures:
    """How documents became windows.

    Attributes:
        tokens: length of a window.
        beginning: tokens that begin every window, by their names; none where the tokenizer begins a text with none.
        separator: tokens between two documents of a window.
    """

    tokens: int
    beginning: tuple[str, ...]
    separator: tuple[str, ...]


@dataclass(frozen=True)
class CalibrationFigures:
    """The calibration text of one language.

    Attributes:
        tokens: all tokens of its sequences.
        text_tokens: those that stand for text.
        bytes: UTF-8 bytes of text that these stand for.
    """

    language: str
    weight: float
    documents: int
    sequences: int
    tokens: int
    text_tokens: int
    bytes: int
    digest: str
    unknown_tokens: int = 0
    dropped: int | None = None
    rows_without_text: int = 0
    cut_texts: int = 0
    identified: IdentifiedFigures | None = None


class IdentifiedFigures(Protocol):
    """What language documents seem to be in; `calibration.identification.Identified` is one."""

    @property
    def documents(self) -> int:
        """How many were looked at."""

    @property
    def share(self) -> float:
        """Of those in the language that they claim."""

    @property
    def other(self) -> str:
        """The most frequent other language; empty where there is none."""

    @property
    def other_share(self) -> float:
        """Its share."""


@dataclass(frozen=True)
class EvaluationFigures:
    """The losses of one evaluation language, dense and pruned.

    Attributes:
        windows: non-overlapping windows of text.
        tokens: scored tokens; see `WindowsPart.scored`.
        bytes: UTF-8 bytes of text that these tokens stand for.
        dense_nats: sum of the dense model's cross-entropies.
        pruned_nats: the same of the pruned model, as it is written.
    """

    language: str
    windows: int
    tokens: int
    bytes: int
    dense_nats: float
    pruned_nats: float
    rows_without_text: int = 0
    cut_texts: int = 0
    identified: IdentifiedFigures | None = None


class LayerFigures(Protocol):
    """One pruned layer; `pipeline.observer.LayerRecord` is one."""

    @property
    def name(self) -> str:
        """Name of its weight in the checkpoint."""

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""

    @property
    def zeros(self) -> int:
        """Exact count of zeros."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was unusual while it was pruned."""

    @property
    def snr_db(self) -> Mapping[str, float]:
        """Signal-to-noise ratio of its output per calibration language."""

    @property
    def snr_tokens(self) -> Mapping[str, int]:
        """Number of inputs that each of these ratios rests on."""

    @property
    def weights(self) -> Mapping[str, float]:
        """Mixing weights that were found for it; empty where the mix was given."""


class BlockFigures(Protocol):
    """One pruned decoder block; `pipeline.observer.BlockRecord` is one."""

    @property
    def index(self) -> int:
        """Position in the model, from 0."""

    @property
    def layers(self) -> Sequence[LayerFigures]:
        """Its pruned layers."""

    @property
    def snr_db(self) -> Mapping[str, float]:
        """Signal-to-noise ratio of the hidden states after the block, per language."""


class Part(BaseModel):
    """Common rules: no unknown fields, finite numbers, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class JobPart(Part):
    """The job and the software."""

    id: str
    secateur_version: str


class ModelPart(Part):
    """The dense model."""

    uri: str
    digest: str = Field(description="SHA-256 that stands for its configuration and weights")
    model_type: str = Field(description="transformers' name of the architecture")
    parameters: int = Field(ge=1)
    blocks: int = Field(ge=1, description="decoder blocks")
    dtype: str = Field(description="type of the weights as they are stored")


class IdentifiedPart(Part):
    """What language the documents of a text seem to be in."""

    documents: int = Field(description="that were looked at")
    share: Share = Field(description="of those that seem to be in the language that they claim")
    other: str = Field(description="the most frequent other language; empty where there is none")
    other_share: Share


_ROWS_WITHOUT_TEXT = Field(ge=0, description="rows of the corpus that were skipped because they have no text")
_CUT_TEXTS = Field(ge=0, description="texts of the corpus that are so long that they were cut into several documents")


class WindowsPart(Part):
    """How documents became windows, and which of their tokens are scored."""

    tokens: int = Field(description="length of a window; windows do not overlap")
    beginning: tuple[str, ...] = Field(
        description="tokens that begin every window, as the tokenizer itself begins a text; none where it adds none"
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
    weight: Share = Field(description="weight in the mix; the weights sum to one")
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
        description="texts that were left out of those that the dense model wrote; null where the corpus is the text"
    )
    rows_without_text: int = _ROWS_WITHOUT_TEXT
    cut_texts: int = _CUT_TEXTS
    identified: IdentifiedPart | None = Field(description="null where nobody asked, or where it cannot be told")


class EvaluationLanguage(Part):
    """What pruning cost one language."""

    language: str
    in_mix: bool = Field(description="whether the model was calibrated on the language")
    windows: int
    tokens: int = Field(description="scored tokens: see `windows.scored`")
    bytes: int = Field(description="UTF-8 bytes of text that the scored tokens stand for")
    dense_perplexity: float = Field(description="exp(nats / tokens)")
    pruned_perplexity: float
    perplexity_ratio: float = Field(description="pruned / dense; 1 means nothing was lost")
    dense_bits_per_byte: float = Field(description="nats / (ln 2 · bytes); compares between languages and tokenizers")
    pruned_bits_per_byte: float
    rows_without_text: int = _ROWS_WITHOUT_TEXT
    cut_texts: int = _CUT_TEXTS
    identified: IdentifiedPart | None = Field(description="null where nobody asked, or where it cannot be told")


class SparsityPart(Part):
    """Exact counts of zeros."""

    pruned_layers: Share = Field(description="zeros / weights of the pruned layers")
    all_parameters: Share = Field(description="zeros of the pruned layers / parameters of the model")
    zeros: int = Field(description="zeros in the pruned layers")
    weights: int = Field(description="weights of the pruned layers")


class LayerPart(Part):
    """One pruned layer."""

    name: str
    shape: tuple[int, int] = Field(description="(out, in)")
    zeros: int
    sparsity: Share
    notes: tuple[str, ...] = Field(description="what was unusual, e.g. a factorisation that needed more damping")
    snr_db: dict[str, float] = Field(
        description="10·log10(‖XWᵀ‖² / ‖X(W − Ŵ)ᵀ‖²) per calibration language, on inputs that the layer saw; "
        "compares within one order only; absent where nothing was lost"
    )
    snr_tokens: dict[str, int] = Field(
        default_factory=dict,
        description="number of inputs that each ratio rests on: all that the layer saw where the second moments of the "
        "language were kept, else 2,048 of them where there were as many, and fewer of an expert",
    )
    weights: dict[str, float] = Field(
        description="mixing weights that `minimax` found for the layer; empty where the mix was given"
    )


class BlockPart(Part):
    """One decoder block."""

    index: int
    sparsity: Share
    snr_db: dict[str, float] = Field(
        description="10·log10(‖h‖² / ‖h − ĥ‖²) of the evaluation states after the block, per language; absent where "
        "nothing differs"
    )
    layers: tuple[LayerPart, ...]


class VerdictPart(Part):
    """What the figures mean."""

    kind: str = Field(description="stable, UPPER_SNAKE_CASE")
    language: str | None
    message: str


class Report(Part):
    """report.json."""

    schema_version: Literal["2"] = "2"
    job: JobPart
    model: ModelPart
    windows: WindowsPart
    spec: dict[str, Any] = Field(description="the resolved specification")
    calibration: tuple[CalibrationLanguage, ...]
    evaluation: tuple[EvaluationLanguage, ...]
    sparsity: SparsityPart
    blocks: tuple[BlockPart, ...]
    verdicts: tuple[VerdictPart, ...]

    def to_bytes(self) -> bytes:
        """The canonical form: equal reports have equal bytes."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
        return (text + "\n").encode()


def build_report(
    *,
    job_id: str,
    secateur_version: str,
    model: ModelFigures,
    windows: WindowFigures,
    spec: Mapping[str, Any],
    calibration: Iterable[CalibrationFigures],
    evaluation: Iterable[EvaluationFigures],
    blocks: Iterable[BlockFigures],
) -> Report:
    """Compute the report from the raw figures of a job.

    Args:
        job_id: The job.
        secateur_version: The software.
        model: The dense model.
        windows: How documents became windows.
        spec: The resolved specification as plain data.
        calibration: The text drawn for each language of the mix, in the mix's order.
        evaluation: The losses per evaluation language, in the specification's order.
        blocks: All pruned blocks.
    """
    mix = tuple(_calibration(figures) for figures in calibration)
    weights = {entry.language: entry.weight for entry in mix}
    languages = tuple(_evaluation(figures, in_mix=weights.get(figures.language, 0) > 0) for figures in evaluation)
    parts = tuple(_block(figures) for figures in sorted(blocks, key=lambda block: block.index))
    zeros = sum(layer.zeros for block in parts for layer in block.layers)
    size = sum(math.prod(layer.shape) for block in parts for layer in block.layers)
    inverts = spec["pruning"]["update"] != "none"
    return Report(
        job=JobPart(id=job_id, secateur_version=secateur_version),
        model=ModelPart(
            uri=model.uri,
            digest=model.digest,
            model_type=model.model_type,
            parameters=model.parameters,
            blocks=model.blocks,
            dtype=model.dtype,
        ),
        windows=WindowsPart(tokens=windows.tokens, beginning=windows.beginning, separator=windows.separator),
        spec=dict(spec),
        calibration=mix,
        evaluation=languages,
        sparsity=SparsityPart(
            pruned_layers=zeros / size, all_parameters=zeros / model.parameters, zeros=zeros, weights=size
        ),
        blocks=parts,
        verdicts=tuple(_verdict(verdict) for verdict in judge(mix, languages, parts, inverts=inverts)),
    )


def report_schema() -> dict[str, Any]:
    """The JSON Schema of report.json (draft 2020-12)."""
    schema = Report.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Secateur report"}


def schema_bytes() -> bytes:
    """The schema as it is published in docs/report.schema.json."""
    return (json.dumps(report_schema(), indent=2, ensure_ascii=False) + "\n").encode()


def _calibration(figures: CalibrationFigures) -> CalibrationLanguage:
    return CalibrationLanguage(
        language=figures.language,
        weight=figures.weight,
        documents=figures.documents,
        sequences=figures.sequences,
        tokens=figures.tokens,
        text_tokens=figures.text_tokens,
        bytes=figures.bytes,
        bytes_per_token=figures.bytes / max(figures.text_tokens, 1),
        unknown_share=figures.unknown_tokens / max(figures.text_tokens, 1),
        digest=figures.digest,
        dropped_texts=figures.dropped,
        rows_without_text=figures.rows_without_text,
        cut_texts=figures.cut_texts,
        identified=_identified(figures.identified),
    )


def _evaluation(figures: EvaluationFigures, *, in_mix: bool) -> EvaluationLanguage:
    dense = perplexity(figures.dense_nats, figures.tokens)
    pruned = perplexity(figures.pruned_nats, figures.tokens)
    return EvaluationLanguage(
        language=figures.language,
        in_mix=in_mix,
        windows=figures.windows,
        tokens=figures.tokens,
        bytes=figures.bytes,
        dense_perplexity=dense,
        pruned_perplexity=pruned,
        perplexity_ratio=pruned / dense,
        dense_bits_per_byte=bits_per_byte(figures.dense_nats, figures.bytes),
        pruned_bits_per_byte=bits_per_byte(figures.pruned_nats, figures.bytes),
        rows_without_text=figures.rows_without_text,
        cut_texts=figures.cut_texts,
        identified=_identified(figures.identified),
    )


def _identified(figures: IdentifiedFigures | None) -> IdentifiedPart | None:
    if figures is None:
        return None
    return IdentifiedPart(
        documents=figures.documents, share=figures.share, other=figures.other, other_share=figures.other_share
    )


def _block(figures: BlockFigures) -> BlockPart:
    layers = tuple(
        LayerPart(
            name=layer.name,
            shape=layer.shape,
            zeros=layer.zeros,
            sparsity=layer.zeros / math.prod(layer.shape),
            notes=layer.notes,
            snr_db=dict(layer.snr_db),
            snr_tokens=dict(layer.snr_tokens),
            weights=dict(layer.weights),
        )
        for layer in figures.layers
    )
    zeros, size = sum(layer.zeros for layer in layers), sum(math.prod(layer.shape) for layer in layers)
    return BlockPart(index=figures.index, sparsity=zeros / size, snr_db=dict(figures.snr_db), layers=layers)


def _verdict(verdict: Verdict) -> VerdictPart:
    return VerdictPart(kind=verdict.kind, language=verdict.language, message=verdict.message)


if __name__ == "__main__":
    import sys

    sys.stdout.buffer.write(schema_bytes())
