"""What a streaming pass is to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from secateur_service.calibration.sampling import TextSample
from secateur_service.pipeline.shards import Shards
from secateur_service.pruning.methods import Moments, Recipe
from secateur_service.pruning.patterns import Target


@dataclass(frozen=True)
class Task:
    """The work of a pass.

    Attributes:
        recipe: which weights go, and what happens to those that stay.
        targets: how much of each weight goes, by its name in the checkpoint; what is not in it stays dense.
        order: one of `spec.ORDERS`.
        weights: mixing weight of each calibration language.
        calibration: calibration text by language.
        evaluation: evaluation text by language; may be empty.
        shards: where the pruned blocks go.
        fingerprint: digest of all that their bytes depend on.
        minimax: whether `weights` are only where the search for the weights of the worst language begins.
        layer_snr: whether each layer's signal-to-noise ratio per language is wanted.
    """

    recipe: Recipe
    targets: Mapping[str, Target]
    order: str
    weights: Mapping[str, float]
    calibration: Mapping[str, TextSample]
    evaluation: Mapping[str, TextSample]
    shards: Shards
    fingerprint: str = ""
    minimax: bool = False
    layer_snr: bool = True

    @property
    def moments(self) -> Moments:
        """What it needs to know of the inputs of layers."""
        return Moments.BY_LANGUAGE if self.minimax else self.recipe.moments
