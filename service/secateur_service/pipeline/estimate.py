"""What a job will cost, from the shapes of the model: bytes, memory, disk and floating-point operations.

The formulae are those of the documentation; nothing is loaded and torch is not imported. With T calibration tokens in
L languages, T_e evaluation tokens (dense and pruned copy each), context s, hidden size d, vocabulary V, and layers m×n
that share distinct inputs of widths n (an expert's layers see the share of the tokens that is routed to it):

- a causal forward pass of a block is Σ 2·T·m·n + 2·T·s·d; calibration runs two less the last matrix product of the
  first in order `block`, one in the other orders, and one more where blocks are judged before (allocation). Nothing
  is carried beyond the last block, which saves it a pass in order `block` and that product in the others;
- full second moments are 9/8·T·Σn², one triangle by panels; they take 4·n² bytes each: of one input of a block at a
  time in order `true_sequential`, of all at once in the others, and for each language with `minimax`;
- a factorisation is ⅓·n³ and the sweep m·n·(n + 2·128); conjugate gradients take 12 products of 2·m·n²; ADMM takes
  one of them in each of some 60 iterations (35 to 60 were seen, 300 are the bound), an inverse of n³ in every third,
  and conjugate gradients on two masks. `minimax` does all of this five times, and 4·L·m·n² to judge each;
- the layers' signal-to-noise ratio is two products with 128 inputs per language;
- text that the model writes itself takes 2 operations for each of its parameters and tokens, and as many to judge it;
  the whole model is in memory then, with keys and values of a batch of texts, and the logits of one;
- the head is 2·T_e·V·d for each copy;
- the work directory holds four blocks at a time, for finished ones move on, and in the end what is in no block.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from secateur_service.models.checkpoint import Checkpoint
from secateur_service.models.safetensors import DTYPE_BYTES
from secateur_service.pipeline.outcome import Estimate, Shortage
from secateur_service.pruning.methods import Moments, Recipe
from secateur_service.spec import PruneSpec

# Resident memory of a process that has imported everything and run a tiny job, measured with the pinned versions; and
# what its heap may hold on to.
_PROCESS_BYTES = 400 << 20
_SLACK_BYTES = 48 << 20
_HEAD_BYTES = {"cpu": (64 + 16) << 20, "cuda": (256 + 64) << 20}
_BATCH_TOKENS = {"cpu": 2048, "cuda": 16 * 2048}
_GRAM_PRODUCTS = 9 / 8
_SWEEP_COLUMNS = 128
_CG_PRODUCTS = 12
_ADMM_ITERATIONS = 60
_MINIMAX_SOLVES = 5
_SAMPLE_TOKENS = 128
_BATCH_TEXTS = 16
# Being written, waiting and on their way to the object store.
_BLOCKS_ON_DISK = 4


@dataclass(frozen=True)
class _Group:
    """Layers that share an input of n features.

    Attributes:
        width: n.
        heights: m of each layer.
        share: of all tokens, how many come here.
    """

    width: int
    heights: tuple[int, ...]
    share: float

    @property
    def rows(self) -> int:
        """Σm."""
        return sum(self.heights)

    @property
    def parameters(self) -> int:
        """Weights of the layers."""
        return self.width * self.rows


@dataclass(frozen=True)
class _Work:
    """What a job sends through the model, and what it has to know.

    Attributes:
        blocks: the distinct inputs of every block.
        length: tokens per sequence, s.
        calibration: tokens in all, T.
        evaluation: tokens in all, T_e.
        languages: of the mix, L.
        needs_data: whether the recipe looks at the calibration text.
        needs_gram: whether it needs full second moments.
        minimax: whether it needs them for every language.
    """

    blocks: list[list[_Group]]
    length: int
    calibration: int
    evaluation: int
    languages: int
    needs_data: bool
    needs_gram: bool
    minimax: bool


def estimate_cost(
    checkpoint: Checkpoint, spec: PruneSpec, *, on_device: bool, short_of: Collection[Shortage] = ()
) -> Estimate:
    """Estimate a job.

    Args:
        checkpoint: the model.
        spec: the resolved specification.
        on_device: whether an accelerator computes; its memory is then counted apart from the host's.
        short_of: memory that the job spares.
    """
    languages, length = len(spec.calibration.languages), spec.calibration.sequence_length or 1
    minimax, moments = spec.calibration.policy == "minimax", spec.pruning.recipe.moments
    work = _Work(
        blocks=[list(_groups(checkpoint, index)) for index in range(checkpoint.num_blocks)],
        length=length,
        calibration=spec.calibration.samples_per_language * languages * length,
        evaluation=spec.evaluation.tokens_per_language // length * length * len(spec.evaluation.languages),
        languages=languages,
        needs_data=moments is not Moments.NONE,
        needs_gram=minimax or moments is Moments.FULL,
        minimax=minimax,
    )
    vocabulary, hidden = checkpoint.tensors[checkpoint.head_name].shape
    flops = 2 * 2.0 * work.evaluation * vocabulary * hidden
    for index in range(checkpoint.num_blocks):
        flops += _passes(work, spec, index, hidden) + _solving(work, spec, index)
    device, item = ("cuda", DTYPE_BYTES[checkpoint.weight_dtype]) if on_device else ("cpu", 4)
    peaks = {"cpu": 0, "cuda": 0, "disk": 0}
    peaks[device] += _working_bytes(work, spec, hidden, device, item, small=Shortage.DEVICE in short_of)
    if spec.calibration.generation is not None:
        written = spec.calibration.generation.resolved(length)
        texts = _BATCH_TEXTS * ((written.prefix_tokens or 0) + (written.new_tokens or 0))
        cached = 2 * texts * hidden * checkpoint.num_blocks * item  # keys and values, as wide as the hidden states
        peaks[device] = max(
            peaks[device], checkpoint.parameters * item + cached + texts // _BATCH_TEXTS * vocabulary * item
        )
        flops += 4.0 * checkpoint.parameters * work.calibration / (1 - written.dropped_share)
    peaks[_place_of_states(device, short_of)] += _states_values(work, hidden) * item
    largest = max(
        sum(info.size_bytes for info in checkpoint.block_tensors(index)) for index in range(checkpoint.num_blocks)
    )
    outer = sum(info.size_bytes for info in checkpoint.other_tensors())
    return Estimate(
        checkpoint_bytes=checkpoint.size_bytes,
        # One block is being read or written while another is pruned.
        peak_host_bytes=_PROCESS_BYTES + _SLACK_BYTES + 2 * largest + peaks["cpu"],
        peak_device_bytes=peaks["cuda"],
        disk_bytes=min(checkpoint.size_bytes, _BLOCKS_ON_DISK * largest + outer) + peaks["disk"],
        flops=flops,
    )


def _passes(work: _Work, spec: PruneSpec, index: int, hidden: int) -> float:
    """Operations that send text through a block and look at it on the way."""
    groups, is_last = work.blocks[index], index + 1 == len(work.blocks)

    def forward(tokens: int) -> float:
        products = sum(2.0 * tokens * group.share * group.parameters for group in groups)
        return products + 2.0 * tokens * work.length * hidden

    flops = 2 * forward(work.evaluation)
    if spec.pruning.allocation.policy != "uniform":
        flops += forward(work.calibration)
    if not work.needs_data:
        return flops
    flops += forward(work.calibration)
    if spec.pruning.order == "block" and not is_last:
        flops += forward(work.calibration)
    if spec.pruning.order == "block" or is_last:
        flops -= 2.0 * work.calibration * groups[-1].share * groups[-1].parameters
    if spec.evaluation.layer_snr:
        flops += sum(4.0 * _SAMPLE_TOKENS * work.languages * group.parameters for group in groups)
    if work.needs_gram:
        flops += sum(_GRAM_PRODUCTS * work.calibration * group.share * group.width**2 for group in groups)
    return flops


def _solving(work: _Work, spec: PruneSpec, index: int) -> float:
    """Operations that choose masks and values in a block; those of a score alone do not count."""
    flops = 0.0
    for group in work.blocks[index]:
        once = _solve(spec.pruning.recipe, group)
        judging = 4.0 * work.languages * group.parameters * group.width
        flops += _MINIMAX_SOLVES * (once + judging) if work.minimax else once
    return flops


def _solve(recipe: Recipe, group: _Group) -> float:
    cube, product = float(group.width) ** 3, 2.0 * group.parameters * group.width
    if recipe.score == "admm":
        inverses = len(group.heights) * _ADMM_ITERATIONS / 3
        return inverses * cube + (_ADMM_ITERATIONS + 2 * _CG_PRODUCTS) * product
    flops = _CG_PRODUCTS * product if recipe.update == "cg" else 0.0
    if "obs" in (recipe.score, recipe.update):
        flops += cube / 3 + product / 2 + 2.0 * _SWEEP_COLUMNS * group.parameters
    return flops


def _states_values(work: _Work, hidden: int) -> int:
    """Values of all hidden states that travel from block to block."""
    return ((work.calibration if work.needs_data else 0) + 2 * work.evaluation) * hidden


def _place_of_states(device: str, short_of: Collection[Shortage]) -> str:
    if device == "cuda" and Shortage.DEVICE not in short_of:
        return "cuda"
    return "disk" if Shortage.HOST in short_of else "cpu"


def _working_bytes(work: _Work, spec: PruneSpec, hidden: int, device: str, item: int, *, small: bool) -> int:
    """Memory where the blocks are computed: a block, what waits inside it, statistics, the largest piece of work."""
    groups = max(work.blocks, key=lambda groups: sum(group.parameters for group in groups))
    stages = spec.pruning.order == "true_sequential"
    waiting = 0
    if stages and work.needs_data:  # every batch waits inside the block, with its input and what it will be added to
        waiting = work.calibration * (max(group.width for group in groups) + hidden)
    grams = [4 * group.width**2 for group in groups] if work.needs_gram else [0]
    statistics = (max(grams) if stages else sum(grams)) * (work.languages if work.minimax else 1)
    solving = max(_solving_bytes(spec.pruning.recipe, group, item) for group in groups)
    if work.minimax:  # the best layers so far beside those of a round, and the matrix of its mix
        solving += 2 * 4 * max(group.parameters for group in groups) + max(grams)
    tokens = max(work.length, _BATCH_TOKENS["cpu" if small else device])
    activations = 2 * tokens * max(group.rows for group in groups) * item
    block = sum(group.parameters for group in groups) * item
    return block + waiting * item + statistics + max(solving, activations, _HEAD_BYTES[device])


def _solving_bytes(recipe: Recipe, group: _Group, item: int) -> int:
    """Memory that solving the layers of an input takes, beside the layers and their statistics as they are."""
    square, tallest = 4 * group.width**2, 4 * group.width * max(group.heights)
    copied = item < 4  # float32 weights are worked on as they are
    if recipe.moments < Moments.FULL:  # one layer after the other
        return (4 + copied) * tallest
    solved = (1 + copied) * 4 * group.parameters
    if recipe.score == "admm":
        return solved + 5 * square + 8 * tallest
    if "obs" in (recipe.score, recipe.update):
        solved += 2 * square + 4 * group.parameters
    return solved + (7 if recipe.update == "cg" else 2) * tallest


def _groups(checkpoint: Checkpoint, index: int) -> Iterator[_Group]:
    """The distinct inputs of a block."""
    inputs = checkpoint.inputs(index)
    experts = len({checkpoint.expert_of(name) for group in inputs for name in group} - {None})
    chosen = checkpoint.config.get("num_experts_per_tok")
    routed = min(chosen if isinstance(chosen, int) else 1, experts) / experts if experts else 1.0
    for group in inputs:
        shapes = [checkpoint.linear_weight(index, name).shape for name in group]
        share = routed if checkpoint.expert_of(group[0]) is not None else 1.0
        yield _Group(shapes[0][1], tuple(rows for rows, _ in shapes), share)
