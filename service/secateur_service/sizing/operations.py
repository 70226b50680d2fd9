"""Floating-point operations of a job, from its model's shapes: an estimate adds them up, progress ticks them off.

With T calibration tokens in L languages, T_e evaluation tokens (dense and pruned copy each), context s, hidden size d,
vocabulary V, and layers m×n that share distinct inputs of widths n (an expert's layers see the share of the tokens that
is routed to it):

- a causal forward pass of a block is Σ 2·T·m·n, and 2·T·s·d if it attends to earlier tokens; a layer that carries a
  state instead, or beside that, takes as much for each token however long the text is: see `recurrence` of
  `models.architectures`, and the papers there. In order `block`, calibration runs two passes, the first
  without its last matrix product; in the other orders one; and one more where blocks are judged first (allocation).
  Nothing propagates beyond the last block, which saves it a pass in order `block`, and that product in the others;
- full second moments are 9/8·T·Σn², one triangle by panels;
- a factorisation is ⅓·n³ and the sweep m·n·(n + 2·128); conjugate gradients take 12 products of 2·m·n²; ADMM takes
  one of them in each of some 60 iterations (35 to 60 were observed, the limit is 300), an inverse of n³ in every third,
  and conjugate gradients on two masks. `minimax` does all of this five times, and takes 4·L·m·n² to judge each;
- the layers' signal-to-noise ratio is counted by `fidelity.snr_operations`;
- pruning towards the dense model's output takes a pass of the dense block beside it, or two where parts were removed,
  and one to go on, products of 2·T·n² for the cross moments, and a factorisation and 4·m·n² for each input;
- training a block is three passes an epoch, and one to judge it, of their parts of the text;
- the head is 2·T_e·V·d for each copy;
- requests of tasks are passes of T_q tokens in the dense and the pruned model, with what they share counted once, and
  the head for those of their tokens that are scored.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from secateur_service.models.checkpoint import Checkpoint
from secateur_service.models.configuration import text_configuration
from secateur_service.models.units import kinds_of
from secateur_service.pruning.budget import MINIMAX_ROUNDS, sample_tokens, snr_operations
from secateur_service.pruning.methods import Moments, Recipe
from secateur_service.sizing.reconstruction import training_operations

_GRAM_PRODUCTS = 9 / 8
_MINIMAX_SOLVES = 1 + MINIMAX_ROUNDS
_SELECTION = 100.0  # no matrix products, but it takes time


@dataclass(frozen=True)
class Group:
    """Layers of a block that share an input of n features.

    Attributes:
        width: n.
        heights: m of each layer.
        share: share of all tokens that reach the layers.
        experts: number of experts in the block, if the layers belong to one; else 0.
    """

    width: int
    heights: tuple[int, ...]
    share: float
    experts: int = 0

    @property
    def rows(self) -> int:
        """Σm."""
        return sum(self.heights)

    @property
    def parameters(self) -> int:
        """Weights of the layers."""
        return self.width * self.rows


@dataclass(frozen=True)
class Mixing:
    """What a block computes along the text, besides its linear layers.

    Attributes:
        attention: d, if the block attends to earlier tokens; else 0.
        recurrence: operations for each token of a layer that carries a state.
    """

    attention: int
    recurrence: float = 0.0

    def operations(self, tokens: int, length: int) -> float:
        """Those of `tokens` tokens, in sequences of `length`, of which attention sees half on average."""
        return tokens * (2.0 * length * self.attention + self.recurrence)


@dataclass(frozen=True)
class Work:
    """What a job runs through the model, and what it has to measure.

    Attributes:
        blocks: the distinct inputs of every block.
        mixing: what every block computes along the text.
        hidden: d.
        vocabulary: V.
        length: tokens per sequence, s.
        calibration: calibration tokens in all, T.
        evaluation: evaluation tokens in all, T_e.
        languages: number of languages in the mix, L.
        recipe: score and update.
        order: one of `spec.ORDERS`.
        minimax: whether the mix is searched for.
        layer_snr: whether each layer's signal-to-noise ratio is measured.
        narrowed: which inputs of each block have their projections solved anew, by position.
        follows: whether the calibration text also runs through the dense blocks: see `pipeline.narrowing` and
            `pipeline.reconstruction`.
        asymmetric: whether layers are pruned towards the dense model's output: see `pruning.asymmetry`.
        shrinks: whether the output lacks parts of the dense model.
        epochs: how often blocks are trained on the calibration text.
        asked: tokens of the requests of tasks that run through the blocks, T_q.
        answered: those of them whose predictions are needed.
        scanned: numbers in float32 that a layer that carries a state holds for each token while it runs.
    """

    blocks: list[list[Group]]
    mixing: list[Mixing]
    hidden: int
    vocabulary: int
    length: int
    calibration: int
    evaluation: int
    languages: int
    recipe: Recipe
    order: str
    minimax: bool
    layer_snr: bool
    narrowed: tuple[tuple[int, ...], ...] = ()
    follows: bool = False
    asymmetric: bool = False
    shrinks: bool = False
    epochs: int = 0
    asked: int = 0
    answered: int = 0
    scanned: int = 0

    @property
    def moments(self) -> Moments:
        """What has to be known about the layers' inputs."""
        return Moments.BY_LANGUAGE if self.minimax else self.recipe.moments

    @property
    def needs_data(self) -> bool:
        """Whether the calibration text runs through the blocks."""
        return self.moments is not Moments.NONE or any(self.narrowed) or bool(self.epochs)

    @property
    def needs_gram(self) -> bool:
        """Whether it needs full second moments."""
        return self.moments >= Moments.FULL

    @property
    def has_language_grams(self) -> bool:
        """Whether full moments are kept for every language, including the case of a single language."""
        return self.minimax or (self.needs_gram and self.languages == 1)

    @property
    def all_open(self) -> bool:
        """Whether all inputs of a block are gathered together, and not one stage after another."""
        return self.order != "true_sequential"

    def forward(self, tokens: int, index: int) -> float:
        """A pass of `tokens` tokens through a block."""
        return _forward(self.blocks[index], self.mixing[index], tokens, self.length)

    def evaluating(self, index: int) -> float:
        """Running both copies of the evaluation text through a block."""
        return 2 * self.forward(self.evaluation, index)

    def asking(self, index: int) -> float:
        """Running both copies of the requests of tasks through a block."""
        return 2 * self.forward(self.asked, index)

    def stages(self, index: int) -> tuple[float, ...]:
        """Running the calibration text to each input of a block, including its second moments; last, to the output."""
        if index not in self._stages:  # asked for with every batch at every input, of which a mixture has hundreds
            self._stages[index] = tuple(self._stages_of(index))
        return self._stages[index]

    @cached_property
    def _stages(self) -> dict[int, tuple[float, ...]]:
        """Cache of the blocks looked at so far."""
        return {}

    def _stages_of(self, index: int) -> list[float]:
        groups, is_last = self.blocks[index], index + 1 == len(self.blocks)
        ways = [0.0, *(2.0 * self.calibration * group.share * group.parameters for group in groups)]
        ways[1] += self.mixing[index].operations(self.calibration, self.length)
        leaving = ways.pop()
        if self.asymmetric:  # on both ways, and to the end for what is lacking there
            ways = [2.0 * way for way in ways]
            ways[-1] += leaving * (1 + self.runs_beside)
        ways.append(0.0 if self.order == "block" or self.asymmetric or is_last or self.epochs else leaving)
        return [way + moments for way, moments in zip(ways, [*map(self.moments_of, groups), 0.0], strict=True)]

    def leaving(self, index: int) -> float:
        """Running the calibration text from the last input to the output, part of the first pass in some orders."""
        return self.stages(index)[-1] if self.needs_data else 0.0

    def calibrating(self, index: int) -> float:
        """Running the calibration text through a block, including second moments."""
        return sum(self.stages(index)) if self.needs_data else 0.0

    def carrying(self, index: int) -> float:
        """Running the calibration text through a block again, or just once if the block is already finished."""
        is_last = index + 1 == len(self.blocks)
        return 0.0 if is_last or not self.needs_data else self.forward(self.calibration, index)

    def moments_of(self, group: Group) -> float:
        """Full second moments of an input, and those with what the dense model has there in addition."""
        products = _GRAM_PRODUCTS * self.needs_gram + 2.0 * self._is_aimed(group)
        return products * self.calibration * group.share * group.width**2

    def _is_aimed(self, group: Group) -> bool:
        """Whether layers are pruned towards the dense model's output; experts are not."""
        return self.asymmetric and not group.experts

    def solving(self, group: Group) -> float:
        """Computing masks and values for the layers of an input; a score alone does not count."""
        once = self.recipe.operations(group.width, group.heights)
        if self.minimax:
            once = _MINIMAX_SOLVES * (once + 4.0 * self.languages * group.parameters * group.width)
        if self._is_aimed(group):
            once += float(group.width) ** 3 / 3 + 4.0 * group.parameters * group.width
        return once

    def judging(self, group: Group) -> float:
        """The signal-to-noise ratios of the layers of an input."""
        if not (self.layer_snr and self.needs_data):
            return 0.0
        tokens = int(self.calibration * group.share / self.languages)
        sample = min(tokens, sample_tokens(group.experts if self.all_open else 0))
        return self.languages * snr_operations(group.width, group.heights, None if self.has_language_grams else sample)

    def choosing(self, group: Group) -> float:
        """All work on the layers of an input once it is known; here a score and a selection count too."""
        return self.solving(group) + self.judging(group) + _SELECTION * group.parameters

    def narrowing(self, index: int) -> float:
        """Choosing the channels and heads of a block.

        For each axis a pass of the calibration text, which serves all experts; for each projection second moments per
        language, and solving.
        """
        work, experts = 0.0, False
        for group in self.narrowed_groups(index):
            if not (group.experts and experts):
                work += self.forward(self.calibration, index)
            experts = experts or bool(group.experts)
            work += _GRAM_PRODUCTS * self.calibration * group.share * group.width**2
            work += 4.0 * group.width**3 + 4.0 * group.parameters * group.width
        return work

    def narrowed_groups(self, index: int) -> list[Group]:
        """The inputs of a block whose projections are solved anew."""
        return [self.blocks[index][position] for position in self.narrowed[index]] if self.narrowed else []

    @property
    def runs_beside(self) -> bool:
        """Whether the dense block is run stage by stage beside the one that is pruned, and not also before it."""
        return self.asymmetric and not self.shrinks

    def following(self, index: int) -> float:
        """Running the calibration text through a dense block before another is made from it."""
        return 0.0 if self.runs_beside else self.running(index)

    def running(self, index: int) -> float:
        """Running the calibration text through a dense block, on the dense model's way."""
        return self.forward(self.calibration, index) if self.follows else 0.0

    def training(self, index: int) -> float:
        """Training a block."""
        return training_operations(self.forward(self.calibration, index), self.epochs) if self.epochs else 0.0

    def head(self) -> float:
        """The norm and head for both copies of the evaluation text and of the requests of tasks."""
        return 2 * 2.0 * (self.evaluation + self.answered) * self.vocabulary * self.hidden


def forward_operations(checkpoint: Checkpoint, index: int, tokens: int, length: int) -> float:
    """A causal pass of `tokens` tokens, in sequences of `length`, through a block."""
    return _forward(groups_of(checkpoint, index), mixing_of(checkpoint)[index], tokens, length)


def _forward(groups: Iterable[Group], mixing: Mixing, tokens: int, length: int) -> float:
    products = sum(2.0 * tokens * group.share * group.parameters for group in groups)
    return products + mixing.operations(tokens, length)


def mixing_of(checkpoint: Checkpoint) -> list[Mixing]:
    """What every block computes along the text."""
    row, hidden = checkpoint.architecture, checkpoint.tensors[checkpoint.embedding_name].shape[1]
    recurrence = row.recurrence(text_configuration(checkpoint)) if row.is_recurrent else 0.0
    return [
        Mixing(hidden if row.attends(kind) else 0, recurrence if row.carries(kind) else 0.0)
        for kind in kinds_of(checkpoint)
    ]


def experts_per_token(checkpoint: Checkpoint) -> int:
    """How many experts of a block each token is routed to; those that all tokens see are layers like others."""
    mixture = checkpoint.architecture.mixture
    assert mixture is not None
    return int(getattr(text_configuration(checkpoint), mixture.chosen))


def groups_of(checkpoint: Checkpoint, index: int) -> Iterator[Group]:
    """The distinct inputs of a block."""
    inputs = checkpoint.inputs(index)
    experts = len({checkpoint.expert_of(name) for group in inputs for name in group} - {None})
    routed = experts_per_token(checkpoint) / experts if experts else 1.0
    for group in inputs:
        shapes = [checkpoint.linear_weight(index, name).shape for name in group]
        is_experts = checkpoint.expert_of(group[0]) is not None
        heights = tuple(rows for rows, _ in shapes)
        yield Group(shapes[0][1], heights, routed if is_experts else 1.0, experts if is_experts else 0)
