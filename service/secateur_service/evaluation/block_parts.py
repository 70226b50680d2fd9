"""The parts of a report that say what became of blocks and layers, and how it was decided which of them go."""

from __future__ import annotations

import math
from typing import Self

from pydantic import Field

from secateur_service.evaluation.parts import Part, Share
from secateur_service.records.blocks import BlockRecord, LayerRecord, NarrowedRecord, ReconstructionRecord


class SparsityPart(Part):
    """Exact counts of zeros."""

    pruned_layers: Share = Field(description="zeros / weights of the pruned layers; 0 if there are none")
    all_parameters: Share = Field(description="zeros of the pruned layers / parameters of the output model")
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
        "comparable within one order only; absent if nothing was lost"
    )
    snr_tokens: dict[str, int] = Field(
        default_factory=dict,
        description="number of inputs behind each ratio: all that the layer saw if the second moments of the "
        "language were kept, else 2,048 of them or as many as there were, of an expert only its own",
    )
    weights: dict[str, float] = Field(
        description="the mix that `minimax` found for the layer; empty if the mix was given"
    )
    mask_sample: str = Field(
        default="",
        description="which of 4,096 weights (of an expert 256), drawn by the layer's name and shape, are zero, a bit "
        "each in hexadecimal digits; equal positions of two jobs on one model compare",
    )

    @classmethod
    def of(cls, record: LayerRecord) -> Self:
        """The report part of a layer."""
        return cls(
            name=record.name,
            shape=record.shape,
            zeros=record.zeros,
            sparsity=record.zeros / math.prod(record.shape),
            notes=record.notes,
            snr_db=dict(record.snr_db),
            snr_tokens=dict(record.snr_tokens),
            weights=dict(record.weights),
            mask_sample=record.mask_sample,
        )


class NarrowedPart(Part):
    """The feed-forward channels or the key/value heads of a block, if some were removed; in a mixture, an expert's."""

    kept: int = Field(ge=1, description="those that are left")
    before: int = Field(ge=1, description="those of the dense block")
    errors: dict[str, float] = Field(
        description="‖X(W − Ŵ)ᵀ‖² / ‖XWᵀ‖² of the projection that reads them, per calibration language, with Ŵ solved "
        "for its own output alone; what is written also makes up for earlier blocks"
    )

    @classmethod
    def of(cls, record: NarrowedRecord) -> Self:
        """The report part of what became of them."""
        kept, before = (count // record.projections for count in (len(record.kept), record.before))
        return cls(kept=kept, before=before, errors=dict(record.errors))


class ReconstructionPart(Part):
    """What training a block brought, on calibration text that it was not trained on."""

    epoch: int = Field(ge=0, description="after which its weights were best; 0 if that was before")
    before: dict[str, float] = Field(
        description="by language: of the hidden states after it, on one scale, relative to the dense model's"
    )
    after: dict[str, float] = Field(description="the same with the weights that were written")

    @classmethod
    def of(cls, record: ReconstructionRecord) -> Self:
        """The report part of it."""
        return cls(epoch=record.epoch, before=dict(record.before), after=dict(record.after))


class RemovedBlockPart(Part):
    """A decoder block of the dense model that the output lacks."""

    block: int = Field(ge=0, description="its number in the dense model")
    growth: dict[str, float] = Field(
        description="per kept language, by how much larger a share the loss of calibration text is without this block "
        "and those before it in the list, with what makes up for them; nothing was fitted to that text"
    )


class TriedPart(Part):
    """A plan that was tried for a budget."""

    rows: int = Field(description="of the vocabulary")
    removed: int = Field(description="blocks that go")
    heads: int = Field(description="key/value heads of every block")
    channels: int = Field(description="channels of every feed-forward layer")
    parameters: int
    predicted: dict[str, float] = Field(description="growth of bits per byte, per kept language")
    measured: dict[str, float] = Field(description="the same, measured on calibration text that nothing was fitted to")


class BudgetPart(Part):
    """How the service chose what to remove."""

    parameters: float = Field(description="the share of the parameters that the result may have")
    tried: tuple[TriedPart, ...] = Field(description="in the order of the trials")
    chosen: int = Field(description="the number of the chosen one, from 0")


class BlockPart(Part):
    """One decoder block of the output model."""

    index: int
    sparsity: Share
    snr_db: dict[str, float] = Field(
        description="10·log10(‖h‖² / ‖h − ĥ‖²) of the evaluation states after the block, per language; absent if "
        "nothing differs, or if the two models have different tokens"
    )
    layers: tuple[LayerPart, ...]
    feed_forward: NarrowedPart | None = Field(default=None, description="null if no channels were removed")
    attention: NarrowedPart | None = Field(default=None, description="null if no key/value heads were removed")
    reconstruction: ReconstructionPart | None = Field(default=None, description="null if it was not trained")

    @classmethod
    def of(cls, record: BlockRecord) -> Self:
        """The report part of a block."""
        layers = tuple(LayerPart.of(layer) for layer in record.layers)
        return cls(
            index=record.index,
            sparsity=record.sparsity,
            snr_db=dict(record.snr_db),
            layers=layers,
            feed_forward=record.feed_forward and NarrowedPart.of(record.feed_forward),
            attention=record.attention and NarrowedPart.of(record.attention),
            reconstruction=record.reconstruction and ReconstructionPart.of(record.reconstruction),
        )
