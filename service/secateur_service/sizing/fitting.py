"""Whether what a job asks for fits the shapes of its model. Imports no torch."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Collection, Iterator, Mapping, Sequence

from secateur_service.errors import FieldViolation
from secateur_service.models.architectures import ARCHITECTURES
from secateur_service.models.checkpoint import Checkpoint
from secateur_service.models.plan_file import PlanFile
from secateur_service.models.safetensors import TensorInfo
from secateur_service.models.units import has_axis, heads_of, possible_heads, unit_count, units_of
from secateur_service.pruning.structured.vocabulary import ROWS_MULTIPLE, rounded_rows
from secateur_service.records.blocks import Axis
from secateur_service.sizing.budget_search import least_parameters
from secateur_service.spec import (
    BUDGET_AXES,
    BudgetAxis,
    BudgetSpec,
    FeedForwardSpec,
    KvHeadsSpec,
    LayerOverride,
    PruningSpec,
    ShrinkSpec,
    VocabularySpec,
)


def misfits_of_pruning(
    pruning: PruningSpec, shrink: ShrinkSpec | None, plan: PlanFile | None, checkpoint: Checkpoint
) -> Iterator[FieldViolation]:
    """Overrides that match no layer, patterns that do not divide their layers' inputs, and nothing to prune."""
    rules = {info: pruning.override_of(info.name) for info in checkpoint.linear_weights()}
    names = [info.name for info in rules]
    fields: dict[LayerOverride | None, str] = {None: "pruning"}
    for position, override in enumerate(pruning.overrides):
        fields[override] = f"pruning.overrides[{position}]"
        if not fnmatch.filter(names, override.layers):
            problem = f"{override.layers!r} matches no pruned layer; they are called {names[0]} and the like"
            yield FieldViolation(f"{fields[override]}.layers", problem)
    odd: dict[LayerOverride | None, TensorInfo] = {}
    widths: dict[LayerOverride | None, list[int]] = {}
    narrow = {**_narrow_inputs(shrink, checkpoint), **_planned_inputs(plan, checkpoint)}
    for info, rule in rules.items():
        _, group = (rule or pruning).kept_of_group or (1, 1)
        width = narrow.get(info.name, info.shape[1])
        widths.setdefault(rule, []).append(width)
        if width % group:
            odd.setdefault(rule, info)
    for rule, info in odd.items():
        _, group = (rule or pruning).kept_of_group or (1, 1)
        width = narrow.get(info.name, info.shape[1])
        problem = f"groups of {group} do not divide the {width} inputs of {info.name}"
        remedy = _groups_instead(group, widths[rule], is_narrowed=info.name in narrow)
        yield FieldViolation(f"{fields[rule]}.pattern", f"{problem}; {remedy}")
    if all(rule is not None and rule.dense for rule in rules.values()):
        yield FieldViolation("pruning.overrides", "every layer stays dense; let some be pruned")


_LARGEST_GROUP = 16


def _groups_instead(group: int, widths: Sequence[int], *, is_narrowed: bool) -> str:
    """What to do about groups that do not divide the inputs of all layers."""
    common = math.gcd(*widths)
    fitting = [str(size) for size in range(2, _LARGEST_GROUP + 1) if common % size == 0]
    ways = [f"let shrink keep a multiple of {group}"] if is_narrowed else []
    ways += [f"choose an M of {' or '.join(fitting)}"] if fitting else []
    return ", or ".join([*ways, "give a sparsity instead"])


EXPERT_MULTIPLE = 8
"""Inputs and outputs of experts take up multiples of 16 bytes, in 16 bits at least: see torch's grouped_mm."""


def misfits_of_shrinking(shrink: ShrinkSpec, checkpoint: Checkpoint) -> Iterator[FieldViolation]:
    """Parts to be removed that the model does not have, or of which all would stay."""
    if shrink.vocabulary is not None:
        yield from _rows(shrink.vocabulary, checkpoint)
    if shrink.feed_forward is not None:
        yield from _channels(shrink.feed_forward, checkpoint)
    if shrink.kv_heads is not None:
        yield from _heads(shrink.kv_heads, checkpoint)
    if shrink.blocks is not None and checkpoint.fixed_depth:
        problem = f"blocks of this {checkpoint.model_type} model cannot be removed: they depend on their numbers"
        yield FieldViolation("shrink.blocks", problem)
    elif shrink.blocks is not None and shrink.blocks.remove >= checkpoint.num_blocks:
        count = checkpoint.num_blocks
        yield FieldViolation("shrink.blocks.remove", f"the model has {count} blocks; remove at most {count - 1}")
    able = axes_of(checkpoint)
    for position, axis in enumerate(shrink.budget.axes if shrink.budget else ()):
        if axis not in able:
            problem = f"{axis} of this {checkpoint.model_type} model cannot be removed; {', '.join(able)} can"
            yield FieldViolation(f"shrink.budget.axes[{position}]", problem)
    if shrink.budget is not None and set(shrink.budget.axes) <= set(able):
        yield from _budget(shrink.budget, shrink.budget.axes or able, checkpoint)


def _budget(asked: BudgetSpec, axes: Collection[BudgetAxis], checkpoint: Checkpoint) -> Iterator[FieldViolation]:
    share = least_parameters(checkpoint, axes) / checkpoint.parameters
    if share > asked.parameters:
        more = ", or allow more axes" if set(axes) < set(axes_of(checkpoint)) else ""
        problem = f"removing {', '.join(axes)} leaves at least {math.ceil(1000 * share) / 1000:.3f} of the parameters"
        yield FieldViolation("shrink.budget.parameters", f"{problem}; raise it{more}")


def axes_of(checkpoint: Checkpoint) -> tuple[BudgetAxis, ...]:
    """What can be removed of a model, by its shapes; whether its vocabulary can depends on its tokenizer too."""
    able: dict[BudgetAxis, bool] = {
        "vocabulary": True,
        "blocks": checkpoint.num_blocks > 1 and not checkpoint.fixed_depth,
        "kv_heads": has_axis(checkpoint, "attention") and bool(possible_heads(checkpoint)),
        "feed_forward": has_axis(checkpoint, "feed_forward") and not _has_experts(checkpoint),
    }
    return tuple(axis for axis in BUDGET_AXES if able[axis])


def _rows(asked: VocabularySpec, checkpoint: Checkpoint) -> Iterator[FieldViolation]:
    rows = checkpoint.tensors[checkpoint.embedding_name].shape[0]
    if asked.rows is not None and rounded_rows(asked.rows) >= rows:
        problem = f"the model has {rows} rows, and {asked.rows} are rounded up to a multiple of {ROWS_MULTIPLE}"
        yield FieldViolation("shrink.vocabulary.rows", f"{problem}; ask for fewer")


def _channels(asked: FeedForwardSpec, checkpoint: Checkpoint) -> Iterator[FieldViolation]:
    if not has_axis(checkpoint, "feed_forward"):
        able = ", ".join(name for name, row in ARCHITECTURES.items() if row.feed_forward and row.feed_forward.size)
        problem = f"channels of {checkpoint.model_type} models cannot be removed; those of {able} can"
        yield FieldViolation("shrink.feed_forward", problem)
        return
    width = unit_count(checkpoint, "feed_forward")
    kept = asked.channels_of(width)
    would = f"{kept} of {width} channels would be kept"
    if _has_experts(checkpoint) and kept % EXPERT_MULTIPLE and kept < width:
        field = "channels" if asked.channels is not None else "multiple_of"
        problem = f"{would} of each expert, and transformers' products of experts want a multiple of {EXPERT_MULTIPLE}"
        yield FieldViolation(f"shrink.feed_forward.{field}", f"{problem}; choose one")
    if kept >= width and asked.channels is not None:
        yield FieldViolation("shrink.feed_forward.channels", f"{would}; keep fewer")
    elif kept >= width:
        problem = f"{would}, rounded to a multiple of {asked.multiple_for(width)}"
        remedy = "give a smaller multiple_of or a larger share"
        yield FieldViolation("shrink.feed_forward.share", f"{problem}; {remedy}")


def _heads(asked: KvHeadsSpec, checkpoint: Checkpoint) -> Iterator[FieldViolation]:
    if checkpoint.architecture.attention is None:
        able = ", ".join(name for name, row in ARCHITECTURES.items() if row.attention)
        problem = f"heads of {checkpoint.model_type} models cannot be removed; those of {able} can"
        yield FieldViolation("shrink.kv_heads", problem)
        return
    heads = heads_of(checkpoint)
    if asked.remove >= heads.keys:
        problem = f"every block has {heads.keys} key/value heads, and one at least has to stay"
        remedy = "remove fewer" if heads.keys > 1 else "leave kv_heads out"
        yield FieldViolation("shrink.kv_heads.remove", f"{problem}; {remedy}")
        return
    possible, kept = possible_heads(checkpoint), heads.keys - asked.remove
    if kept not in possible:
        problem = f"transformers builds no {checkpoint.model_type} model of this size with {kept} key/value heads and "
        problem += f"{kept * heads.queries} query heads"
        others = ", ".join(str(heads.keys - count) for count in reversed(possible))
        remedy = f"remove one of these numbers: {others}" if others else "leave kv_heads out"
        yield FieldViolation("shrink.kv_heads.remove", f"{problem}; {remedy}")


def _narrow_inputs(shrink: ShrinkSpec | None, checkpoint: Checkpoint) -> dict[str, int]:
    """The number of inputs of layers that have fewer of them in the output, by the name of the weight."""
    counts: dict[Axis, int] = {}
    row = checkpoint.architecture
    if shrink is not None and shrink.feed_forward is not None and row.feed_forward is not None:
        counts["feed_forward"] = shrink.feed_forward.channels_of(unit_count(checkpoint, "feed_forward"))
    if shrink is not None and shrink.kv_heads is not None and row.attention is not None:
        counts["attention"] = heads_of(checkpoint).keys - shrink.kv_heads.remove
    return _inputs_left(counts, checkpoint)


def _planned_inputs(plan: PlanFile | None, checkpoint: Checkpoint) -> dict[str, int]:
    """The same where the plan of another job says what is kept."""
    return _inputs_left(plan.counts(checkpoint), checkpoint) if plan else {}


def _inputs_left(counts: Mapping[Axis, int], checkpoint: Checkpoint) -> dict[str, int]:
    """By the number of units that each projection keeps."""
    return {
        units.output.name: kept * units.columns
        for axis, kept in counts.items()
        for index in range(checkpoint.num_blocks)
        for units in units_of(checkpoint, index, axis)
    }


def _has_experts(checkpoint: Checkpoint) -> bool:
    layout = checkpoint.architecture.feed_forward
    return layout is not None and layout.of_experts
