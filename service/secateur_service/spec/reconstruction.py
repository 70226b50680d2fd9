"""The part `reconstruction` of a specification: blocks are trained to do what the dense model's do."""

from __future__ import annotations

from pydantic import Field

from secateur_service.spec.base import Part


class ReconstructionSpec(Part):
    """How the kept weights of each block are trained."""

    epochs: int = Field(default=4, ge=1, le=1000, description="passes over the calibration text, 1 to 1000")
    learning_rate: float = Field(
        default=0.03,
        gt=0,
        le=1,
        description="a share of the weights' root mean square for the first step, e.g. 0.03; it falls to zero",
    )
    batch: int = Field(default=4, ge=1, le=4096, description="a whole number of sequences for each step, 1 to 4096")
    norms: bool = Field(default=False, description="true or false: whether the weights of norms are trained too")
    seed: int = Field(default=0, ge=0, lt=2**63, description="a whole number; it decides the order of the sequences")
