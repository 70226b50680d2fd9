"""What is known about a finished block and its layers: the ledger's entries, and the report's raw data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Axis = Literal["attention", "feed_forward"]
"""What every block can lose some of: key/value heads with their query heads, or feed-forward channels."""

AXES: tuple[Axis, ...] = ("attention", "feed_forward")
"""In the order in which a block runs them, and in which they are narrowed."""


@dataclass(frozen=True)
class LayerRecord:
    """One layer that was processed by pruning.

    Attributes:
        name: name of its weight in the checkpoint.
        shape: (out, in).
        zeros: exact count of zeros.
        notes: what was unusual.
        snr_db: 10·log10(‖XWᵀ‖² / ‖X(W − Ŵ)ᵀ‖²) per calibration language, on inputs that the layer saw.
        snr_tokens: number of these inputs, per calibration language.
        weights: mixing weight of each language, if they were searched for.
        mask_sample: which of the layer's sampled weights are zero: see `pruning.mask_sample`.
    """

    name: str
    shape: tuple[int, int]
    zeros: int
    notes: tuple[str, ...] = ()
    snr_db: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    snr_tokens: Mapping[str, int] = field(default_factory=dict)
    mask_sample: str = ""


@dataclass(frozen=True)
class NarrowedRecord:
    """What became of the feed-forward channels or the key/value heads of a block.

    Attributes:
        kept: those that stay, by their number in the dense block.
        before: how many there were.
        projections: how many projections read them: one, or one of each expert, which keep as many each.
        errors: ‖X(W − Ŵ)ᵀ‖² / ‖XWᵀ‖² of the projection that reads them, per calibration language, with Ŵ solved for its
            own output alone.
    """

    kept: tuple[int, ...]
    before: int
    errors: Mapping[str, float]
    projections: int = 1


@dataclass(frozen=True)
class ReconstructionRecord:
    """What training a block brought, on calibration sequences that it was not trained on.

    Attributes:
        epoch: after which its weights were best; 0 if that was before.
        before: the error of the hidden states after it, by language: see `pipeline.reconstruction`.
        after: the same with the weights that are written.
    """

    epoch: int
    before: Mapping[str, float]
    after: Mapping[str, float]


@dataclass(frozen=True)
class BlockRecord:
    """A finished decoder block: the ledger's entry.

    `shard` is the file name in `checkpoint/`, which contains the content's digest; `tensors` names what it holds.
    `snr_db` is 10·log10(‖h‖² / ‖h − ĥ‖²) of the evaluation states after the block, per language; `fingerprint` is the
    digest of everything that its bytes depend on; `feed_forward` and `attention` are None where no channels and no
    heads were removed, `reconstruction` where it was not trained.
    """

    index: int
    shard: str
    sha256: str
    size_bytes: int
    tensors: tuple[str, ...]
    layers: tuple[LayerRecord, ...]
    snr_db: Mapping[str, float]
    seconds: float
    fingerprint: str = ""
    feed_forward: NarrowedRecord | None = None
    attention: NarrowedRecord | None = None
    reconstruction: ReconstructionRecord | None = None

    @property
    def sparsity(self) -> float:
        """Share of zeros over the block's pruned layers."""
        total = sum(layer.shape[0] * layer.shape[1] for layer in self.layers)
        return sum(layer.zeros for layer in self.layers) / total if total else 0.0
