"""What a streaming pass is to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from secateur_service.calibration.sampling import TextSample
from secateur_service.models.checkpoint import Checkpoint
from secateur_service.pipeline.shards import Shards
from secateur_service.pruning.methods import Moments, Recipe
from secateur_service.pruning.patterns import Target
from secateur_service.sizing.operations import Work, groups_of


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

    def work(self, checkpoint: Checkpoint) -> Work:
        """Its work on a model, as operations are counted."""
        length = next(iter(self.calibration.values())).tokens.shape[1]
        vocabulary, hidden = checkpoint.tensors[checkpoint.head_name].shape
        return Work(
            blocks=[list(groups_of(checkpoint, index)) for index in range(checkpoint.num_blocks)],
            hidden=hidden,
            vocabulary=vocabulary,
            length=length,
            calibration=sum(sample.tokens.numel() for sample in self.calibration.values()),
            evaluation=sum(sample.tokens.numel() for sample in self.evaluation.values()),
            languages=len(self.calibration),
            recipe=self.recipe,
            order=self.order,
            minimax=self.minimax,
            layer_snr=self.layer_snr,
        )

    @property
    def moments(self) -> Moments:
        """What it needs to know of the inputs of layers."""
        return Moments.BY_LANGUAGE if self.minimax else self.recipe.moments
