"""How many sequences of each language the steps of a job need: some are fitted to, others judge. Without torch."""

from __future__ import annotations

from secateur_service.sizing.depth import SCORED_EVERY
from secateur_service.sizing.reconstruction import HELD_OUT_EVERY
from secateur_service.spec import ReconstructionSpec, ShrinkSpec


def least_sequences(shrink: ShrinkSpec | None, reconstruction: ReconstructionSpec | None) -> int:
    """The fewest sequences of each calibration language with which the job can do what is asked of it."""
    searches = shrink is not None and shrink.budget is not None
    return max(1, SCORED_EVERY if searches else 1, HELD_OUT_EVERY if reconstruction is not None else 1)
