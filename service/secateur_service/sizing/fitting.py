"""Whether what a job asks for fits the shapes of its model. Imports no torch."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator

from secateur_service.errors import FieldViolation
from secateur_service.models.architectures import ARCHITECTURES
from secateur_service.models.checkpoint import Checkpoint
from secateur_service.models.safetensors import TensorInfo
from secateur_service.pruning.structured.vocabulary import ROWS_MULTIPLE
from secateur_service.spec import FeedForwardSpec, LayerOverride, PruningSpec, ShrinkSpec, VocabularySpec


def misfits_of_pruning(
    pruning: PruningSpec, shrink: ShrinkSpec | None, checkpoint: Checkpoint
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
    odd: dict[LayerOverride | None, tuple[TensorInfo, int]] = {}
    narrow = _narrow_inputs(shrink, checkpoint)
    for info, rule in rules.items():
        _, group = (rule or pruning).kept_of_group or (1, 1)
        width = narrow.get(info.name, info.shape[1])
        if width % group:
            odd.setdefault(rule, (info, width))
    for rule, (info, width) in odd.items():
        _, group = (rule or pruning).kept_of_group or (1, 1)
        problem = f"groups of {group} do not divide the {width} inputs of {info.name}; choose another M"
        yield FieldViolation(f"{fields[rule]}.pattern", problem)
    if all(rule is not None and rule.dense for rule in rules.values()):
        yield FieldViolation("pruning.overrides", "every layer stays dense; let some be pruned")


def misfits_of_shrinking(shrink: ShrinkSpec, checkpoint: Checkpoint) -> Iterator[FieldViolation]:
    """Parts to be removed that the model does not have, or of which all would stay."""
    if shrink.vocabulary is not None:
        yield from _rows(shrink.vocabulary, checkpoint)
    if shrink.feed_forward is not None:
        yield from _channels(shrink.feed_forward, checkpoint)


def _rows(asked: VocabularySpec, checkpoint: Checkpoint) -> Iterator[FieldViolation]:
    rows = checkpoint.tensors[checkpoint.embedding_name].shape[0]
    if asked.rows is not None and -(-asked.rows // ROWS_MULTIPLE) * ROWS_MULTIPLE >= rows:
        problem = f"the model has {rows} rows, and {asked.rows} are rounded up to a multiple of {ROWS_MULTIPLE}"
        yield FieldViolation("shrink.vocabulary.rows", f"{problem}; ask for fewer")


def _channels(asked: FeedForwardSpec, checkpoint: Checkpoint) -> Iterator[FieldViolation]:
    layout = checkpoint.architecture.feed_forward
    if layout is None:
        able = ", ".join(name for name, row in ARCHITECTURES.items() if row.feed_forward)
        problem = f"channels of {checkpoint.model_type} models cannot be removed; those of {able} can"
        yield FieldViolation("shrink.feed_forward", problem)
        return
    width = checkpoint.linear_weight(0, layout.output).shape[1]
    kept = asked.channels_of(width)
    would = f"{kept} of {width} channels would be kept"
    if kept >= width and asked.channels is not None:
        yield FieldViolation("shrink.feed_forward.channels", f"{would}; keep fewer")
    elif kept >= width:
        problem = f"{would}, rounded to a multiple of {asked.multiple_for(width)}"
        remedy = "give a smaller multiple_of or a larger share"
        yield FieldViolation("shrink.feed_forward.share", f"{problem}; {remedy}")


def _narrow_inputs(shrink: ShrinkSpec | None, checkpoint: Checkpoint) -> dict[str, int]:
    """The number of inputs of layers that have fewer of them in the output, by the name of the weight."""
    layout = checkpoint.architecture.feed_forward
    if shrink is None or shrink.feed_forward is None or layout is None:
        return {}
    readers = [checkpoint.linear_weight(index, layout.output) for index in range(checkpoint.num_blocks)]
    return {info.name: shrink.feed_forward.channels_of(info.shape[1]) for info in readers}
