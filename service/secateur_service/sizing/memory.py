"""How much memory a job needs where it computes blocks, by the shapes of the largest one; see `sizing.estimate`."""

from __future__ import annotations

from secateur_service.models.budget import HEAD_SLICE_BYTES, LOGITS_SLICE_BYTES
from secateur_service.pruning.budget import BATCH_TILES, EXPERT_TILE_TOKENS, TILE_TOKENS, sample_tokens
from secateur_service.pruning.methods import Moments, Recipe
from secateur_service.sizing.operations import Group, Work
from secateur_service.spec import PruneSpec


def working_bytes(work: Work, spec: PruneSpec, hidden: int, device: str, item: int, copies: int, *, small: bool) -> int:
    """Memory where blocks are computed: a block, states waiting inside it, statistics, the largest piece of work.

    Some mixtures give every expert a copy of all tokens, scaled by the router.
    """
    largest = max(range(len(work.blocks)), key=lambda at: sum(group.parameters for group in work.blocks[at]))
    groups, narrowed = work.blocks[largest], work.narrowed_groups(largest)
    stages = not work.all_open
    waiting = 0
    if stages and work.needs_data:  # every batch waits inside the block, with its input and its residual
        waiting = (1 + work.asymmetric) * work.calibration * (max(group.width for group in groups) + hidden)
    if experts := [group for group in narrowed if group.experts]:  # and with the sum of the experts' outputs
        waiting = max(waiting, int(work.calibration * (3 * hidden + experts[0].share * experts[0].width)))
    grams = [4 * group.width**2 * work.needs_gram for group in groups]
    each = [
        gram * ((work.languages if work.minimax else 1) + work.asymmetric) + waiting_bytes(work, group, item)
        for gram, group in zip(grams, groups, strict=True)
    ]
    statistics = max(each) if stages else sum(each)
    # While text arrives, its open shard is summed beside those before it; not that of experts on a device.
    shard = [
        (1 + work.asymmetric * (not group.experts)) * gram * (device == "cpu" or not group.experts)
        for gram, group in zip(grams, groups, strict=True)
    ]
    opened = max(shard) if stages else sum(shard)
    solving = max(_solving_bytes(spec.recipe, group, item) for group in groups)
    if work.asymmetric:  # what is pruned instead of the layers
        solving += 4 * max(group.parameters for group in groups)
    if work.minimax:  # the best layers so far besides those of the current round, and the matrix of its mix
        solving += 2 * 4 * max(group.parameters for group in groups) + max(grams)
    sizes = "cpu" if small else device
    tokens = max(work.length, TILE_TOKENS * BATCH_TILES[sizes])
    # The copies as they are, scaled, what the experts make of them, and the states of a scan.
    activations = tokens * ((2 * max(group.rows for group in groups) + 3 * copies * hidden) * item + 4 * work.scanned)
    block = sum(group.parameters for group in groups) * item
    return (
        block * (1 + work.asymmetric)
        + waiting * item
        + statistics
        + max(
            solving,
            _narrowing_bytes(work, narrowed),
            _training_bytes(work, spec, groups, hidden, item),
            activations + opened,
            HEAD_SLICE_BYTES[sizes] + 3 * LOGITS_SLICE_BYTES[sizes],  # of both models, and their exponentials
        )
    )


def _solving_bytes(recipe: Recipe, group: Group, item: int) -> int:
    """Memory for solving the layers of an input, beyond the layers and their statistics themselves."""
    square, tallest = 4 * group.width**2, 4 * group.width * max(group.heights)
    copied = item < 4  # float32 weights need no conversion
    if recipe.moments < Moments.FULL:  # one layer after the other
        return (4 + copied) * tallest
    costs = [part.cost for part in recipe.parts]
    stacks = 1 + copied + sum(cost.stacks for cost in costs)
    squares, layers = sum(cost.squares for cost in costs), max(cost.layers for cost in costs)
    return stacks * 4 * group.parameters + squares * square + layers * tallest


def _narrowing_bytes(work: Work, narrowed: list[Group]) -> int:
    """Memory for choosing channels or heads: second moments per language and mixed, and three matrices in float64."""
    each = [
        4 * group.width**2 * (work.languages + 1) + 3 * 8 * (group.width**2 + group.parameters) for group in narrowed
    ]
    return max(each, default=0)


def _training_bytes(work: Work, spec: PruneSpec, groups: list[Group], hidden: int, item: int) -> int:
    """Memory for training a block, beside the block: its weights several times, and what a step keeps for gradients."""
    if spec.reconstruction is None:
        return 0
    parameters = sum(group.parameters for group in groups)
    # Gradients, two moments, an epoch's weights, the best ones; a copy in float32 where there is none yet; a mask.
    copies = 4 * parameters * (5 + (item < 4)) + parameters
    values = sum(int(group.share * (group.width + group.rows)) for group in groups) + 6 * hidden
    sequences = min(spec.reconstruction.batch, work.calibration // work.length)
    return int(copies + 4 * sequences * work.length * values)


def waiting_bytes(work: Work, group: Group, item: int) -> int:
    """Held inputs of each language: the sample that layers are judged by, and an expert's partial tile."""
    if not work.needs_data:
        return 0
    arrived = int(work.calibration * group.share / work.languages)
    tokens = EXPERT_TILE_TOKENS if group.experts else 0
    if work.layer_snr and not work.has_language_grams:
        tokens += min(arrived, sample_tokens(group.experts if work.all_open else 0))
    return work.languages * tokens * group.width * item
