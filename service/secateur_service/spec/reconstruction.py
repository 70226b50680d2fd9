"""The part `reconstruction` of a specification: blocks are trained to do what the dense model's do."""

from __future__ import annotations

from pydantic import Field

from secateur_service.spec.base import Part


class ReconstructionSpec(Part):
    """How the kept weights of each block are trained."""

    epochs: int = Field(default=4, ge=1, le=1000, description="how often the calibration text is gone through")
    learning_rate: float = Field(
        default=0.03,
        gt=0,
        le=1,
        description="the first step's size as a share of the weights' root mean square, e.g. 0.03; it falls to zero",
    )
    batch: int = Field(default=4, ge=1, le=4096, description="sequences of each step")
    seed: int = Field(default=0, ge=0, lt=2**63, description="decides the order of the sequences")
