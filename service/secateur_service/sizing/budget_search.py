"""How much work the search for the amounts of a budget is. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Collection

from secateur_service.models.checkpoint import Checkpoint
from secateur_service.models.units import Units, has_axis, possible_heads, unit_count, units_of
from secateur_service.pruning.structured.amounts import Amounts, BlockSizes, Sizes
from secateur_service.pruning.structured.vocabulary import ROWS_MULTIPLE
from secateur_service.records.blocks import AXES, Axis
from secateur_service.spec import BudgetAxis

TRIALS = 6
"""Plans that are tried at most."""
_LARGEST_MULTIPLE = 256
_STEPS = 16
_POINTS = 12
_LEAST_LEFT = 0.25


def grid_of(count: int) -> list[int]:
    """The numbers of units for which it is found out what is lost, from all of them to a quarter.

    Few units are taken one by one; many, in multiples of what quantised formats and tensor parallelism ask for.
    """
    multiple = multiple_of(count)
    steps = count // multiple
    fewest = max(1, math.ceil(steps * _LEAST_LEFT))
    stride = max(1, -(-(steps - fewest) // _POINTS))
    return [*range(count, fewest * multiple, -stride * multiple), fewest * multiple]


def multiple_of(count: int) -> int:
    """What the number of units that stay is a multiple of: a power of two up to 256, in sixteen steps at least."""
    multiple = _LARGEST_MULTIPLE
    while multiple > 1 and (count % multiple or multiple * _STEPS > count):
        multiple //= 2
    return multiple


def most_removed(checkpoint: Checkpoint, parameters: int) -> int:
    """How many blocks are tried to be removed: what the budget could ask for, and a third of them at most."""
    each = (checkpoint.parameters - outside_of(checkpoint)) / checkpoint.num_blocks
    needed = math.ceil((checkpoint.parameters - parameters) / each)
    return min(needed, checkpoint.num_blocks // 3)


def least_parameters(checkpoint: Checkpoint, axes: Collection[BudgetAxis]) -> int:
    """The fewest parameters that can be left by a model's shapes; its text may show that more have to stay."""
    sizes, most = sizes_of(checkpoint), checkpoint.num_blocks // 3
    dense = sizes.dense
    rows = ROWS_MULTIPLE if "vocabulary" in axes else dense.rows
    heads, channels = dense.heads, dense.channels
    if "kv_heads" in axes:
        fewest = grid_of(heads)[-1]
        heads = min(count for count in (*possible_heads(checkpoint), heads) if count >= fewest)
    if "feed_forward" in axes:
        channels = grid_of(channels)[-1]
    largest = sorted(range(checkpoint.num_blocks), key=lambda index: -sizes.blocks[index].all)
    removed = largest[:most] if "blocks" in axes else []
    return sizes.parameters(Amounts(rows, 0, heads, channels), removed)


def outside_of(checkpoint: Checkpoint) -> int:
    """Parameters outside the blocks."""
    return sum(math.prod(info.shape) for info in checkpoint.other_tensors())


def sizes_of(checkpoint: Checkpoint) -> Sizes:
    """The parameters of a model by what can be removed."""
    rows = checkpoint.tensors[checkpoint.embedding_name].shape[0]
    named = {checkpoint.embedding_name, checkpoint.head_name}
    others = checkpoint.other_tensors()
    of_rows = sum(math.prod(info.shape) for info in others if info.name in named or _is_head(info.name))
    axes = [axis for axis in AXES if has_axis(checkpoint, axis)]
    blocks = []
    counts: dict[Axis, int] = {}
    for index in range(checkpoint.num_blocks):
        each: dict[Axis, int] = {}
        for axis in axes:
            units = units_of(checkpoint, index, axis)
            counts[axis] = unit_count(checkpoint, axis)
            each[axis] = sum(_unit_parameters(checkpoint, one) for one in units)
        whole = sum(math.prod(info.shape) for info in checkpoint.block_tensors(index))
        blocks.append(BlockSizes(whole, each.get("attention", 0), each.get("feed_forward", 0)))
    dense = Amounts(rows, 0, counts.get("attention", 0), counts.get("feed_forward", 0))
    return Sizes(dense, outside_of(checkpoint) - of_rows, of_rows // rows, blocks)


def _unit_parameters(checkpoint: Checkpoint, units: Units) -> int:
    """The parameters of one unit."""
    rows = sum(math.prod(checkpoint.tensors[name].shape) // units.count for name in units.inputs)
    return rows + units.columns * units.output.shape[0]


def _is_head(name: str) -> bool:
    return name.endswith(("lm_head.weight", "lm_head.bias"))
