"""What a streaming pass has to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from secateur_service.calibration.sampling import TextSample
from secateur_service.models.checkpoint import Checkpoint
from secateur_service.models.cutting import CutReader
from secateur_service.models.plan import OutputPlan
from secateur_service.models.streaming import StreamedModel
from secateur_service.models.units import KeptUnits, inputs_of
from secateur_service.pipeline.shards import Shards
from secateur_service.pipeline.shared_states import SharedStates
from secateur_service.pruning.methods import Moments, Recipe
from secateur_service.pruning.patterns import Target
from secateur_service.sizing.operations import Work, groups_of, mixing_of
from secateur_service.spec import ReconstructionSpec
from secateur_service.tasks.requests import Request

Samples = Mapping[str, TextSample]
"""Text by language."""


@dataclass(frozen=True)
class Output:
    """The output model, where its shape differs from the dense model's.

    Attributes:
        plan: which parts of the dense model are kept.
        model: the output model before pruning, with its own tokens.
        reader: reads its tensors.
        calibration: calibration text in its tokens.
        evaluation: evaluation text in its tokens: each sequence stands for the same text as in the config.
        units: heads and channels to keep, where that is known, by axis and by the number of the block.
        requests: those of the tasks in its tokens, one for one those in the config.
    """

    plan: OutputPlan
    model: StreamedModel
    reader: CutReader
    calibration: Samples
    evaluation: Samples
    units: KeptUnits = field(default_factory=dict)
    requests: Sequence[Request] = ()


@dataclass(frozen=True)
class PassConfig:
    """The work of a pass.

    Attributes:
        recipe: which weights are pruned, and what happens to those that are kept.
        targets: how much of each matrix to prune, by its name in the output; matrices not listed stay dense.
        order: one of `spec.ORDERS`.
        mix: weight of each calibration language, summing to one.
        calibration: calibration text by language, in the tokens of the dense model.
        evaluation: evaluation text by language, in the same tokens; may be empty.
        shards: where the pruned blocks go.
        fingerprint: digest of everything that their bytes depend on.
        minimax: whether `mix` is only the starting point of the search for the minimax mix.
        asymmetric: whether layers have the dense model's output as their target (`pruning.asymmetry`).
        layer_snr: whether to measure each layer's signal-to-noise ratio per language.
        output: the output model; None for the dense model with its weights pruned.
        reconstruction: how blocks are trained; None for not at all.
        requests: what both models are asked for tasks, in the tokens of the dense model.
        language_neurons: whether to find out what becomes of the neurons that belong to a language.
        writes: whether finished blocks are written; otherwise only the losses are of interest.
        shared: what blocks of the dense model made of the evaluation text in earlier passes; None to compute it.
    """

    recipe: Recipe
    targets: Mapping[str, Target]
    order: str
    mix: Mapping[str, float]
    calibration: Samples
    evaluation: Samples
    shards: Shards
    fingerprint: str = ""
    minimax: bool = False
    asymmetric: bool = False
    layer_snr: bool = True
    output: Output | None = None
    reconstruction: ReconstructionSpec | None = None
    requests: Sequence[Request] = ()
    language_neurons: bool = False
    writes: bool = True
    shared: SharedStates | None = None

    def work(self, checkpoint: Checkpoint, calibration: Samples, evaluation: Samples) -> Work:
        """The work of the pass, for counting operations, on the model whose tokens the text is in."""
        length = next(iter(calibration.values())).tokens.shape[1]
        vocabulary, hidden = checkpoint.tensors[checkpoint.head_name].shape
        return Work(
            blocks=[list(groups_of(checkpoint, index)) for index in range(checkpoint.num_blocks)],
            mixing=mixing_of(checkpoint),
            hidden=hidden,
            vocabulary=vocabulary,
            length=length,
            calibration=sum(sample.tokens.numel() for sample in calibration.values()),
            evaluation=sum(sample.tokens.numel() for sample in evaluation.values()),
            languages=len(calibration),
            recipe=self.recipe,
            order=self.order,
            minimax=self.minimax,
            layer_snr=self.layer_snr,
            narrowed=inputs_of(checkpoint, self.output.plan.solved_axes if self.output else ()),
            # In order `dense`, the calibration text is on the dense model's way already.
            follows=self.order != "dense" and (self.looks_beyond or self.solves_towards_dense),
            asymmetric=self.asymmetric,
            shrinks=self.output is not None,
            epochs=self.reconstruction.epochs if self.reconstruction else 0,
        )

    @property
    def solves_towards_dense(self) -> bool:
        """Whether feed-forward layers make up for what earlier blocks lost."""
        return self.output is not None and self.output.plan.follows

    @property
    def looks_beyond(self) -> bool:
        """Whether what the dense model has after a block is the target of the block or of its layers."""
        return self.asymmetric or self.reconstruction is not None

    @property
    def moments(self) -> Moments:
        """What it needs to know about the inputs of layers."""
        return Moments.BY_LANGUAGE if self.minimax else self.recipe.moments
