"""What of a block is removed together along one axis: a channel of its feed-forward layers, or a key/value head.

A unit is some rows of the parameters that write it and some columns of the projection that reads it. All units of an
axis have as many of each. Does not import torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateur_service.models.checkpoint import Checkpoint, ModelRefusedError
from secateur_service.models.configuration import read_configuration, text_configuration
from secateur_service.models.safetensors import TensorInfo
from secateur_service.records.blocks import Axis

KeptUnits = Mapping[Axis, Mapping[int, tuple[int, ...]]]
"""Units to keep, by axis and by the number of the block in the dense model.

The channels of a block's experts are numbered one expert after the other.
"""

_GATE_AND_VALUE = 2


@dataclass(frozen=True)
class Heads:
    """The heads of a model's attention.

    Attributes:
        queries: query heads of each key/value head.
        keys: key/value heads.
        width: inputs of the output projection for each query head.
    """

    queries: int
    keys: int
    width: int


def heads_of(checkpoint: Checkpoint, index: int = 0) -> Heads:
    """The heads of a block, from the configuration with transformers' defaults."""
    config = text_configuration(checkpoint).per_layer_config[index]
    queries = config.num_attention_heads
    keys = getattr(config, "num_key_value_heads", None) or queries
    if checkpoint.text_type == "falcon":  # see FalconAttention of transformers
        one = config.multi_query and not config.new_decoder_architecture
        keys = 1 if one else config.num_kv_heads
    return Heads(queries // keys, keys, getattr(config, "head_dim", None) or config.hidden_size // queries)


def kinds_of(checkpoint: Checkpoint) -> tuple[str, ...]:
    """What each block does along the text: a kind that `layer_types` may name."""
    row = checkpoint.architecture
    kinds = getattr(text_configuration(checkpoint), "layer_types", None) if row.is_recurrent else None
    only = row.layer_types[0] if row.is_recurrent else "full_attention"
    return tuple(kinds or [only] * checkpoint.num_blocks)


def attending_blocks(checkpoint: Checkpoint) -> tuple[int, ...]:
    """The blocks that keep keys and values of every token."""
    attends = checkpoint.architecture.attends
    return tuple(index for index, kind in enumerate(kinds_of(checkpoint)) if attends(kind))


def possible_heads(checkpoint: Checkpoint) -> tuple[int, ...]:
    """The numbers of key/value heads, fewer than now, with which transformers builds the model.

    Some classes want the hidden size to be a multiple of the number of query heads, whatever the width of a head.
    """
    return tuple(kept for kept in range(1, heads_of(checkpoint).keys) if _is_possible(checkpoint, kept))


def _is_possible(checkpoint: Checkpoint, kept: int) -> bool:
    try:
        settings = {**checkpoint.text_config, **settings_of(checkpoint, "attention", kept)}
        read_configuration(settings, checkpoint.text_type)
    except ModelRefusedError:
        return False
    return True


@dataclass(frozen=True)
class Units:
    """The units that one projection reads: all of an axis of a block, or the channels of one expert.

    Attributes:
        count: how many there are.
        first: the number of the first one in the block.
        linear: the linear layer that reads them, relative to the block.
        output: its weight.
        columns: how many of its columns belong to each unit; they are one after the other.
        inputs: parameters with rows of the units by their name in the checkpoint, and how many rows each unit has in
            every part of them; the parts are one below the other.
        transposed: those of all these parameters that the checkpoint stores as inputs × outputs.
    """

    count: int
    linear: str
    output: TensorInfo
    columns: int
    inputs: Mapping[str, tuple[int, ...]]
    first: int = 0
    transposed: frozenset[str] = frozenset()

    def among(self, numbers: Iterable[int]) -> list[int]:
        """Which of these units are kept, of those that the block keeps."""
        return [number - self.first for number in numbers if 0 <= number - self.first < self.count]

    def columns_of(self, kept: Sequence[int]) -> list[int]:
        """The columns of the units that are kept."""
        return [column for unit in kept for column in range(unit * self.columns, (unit + 1) * self.columns)]

    def rows_of(self, name: str, kept: Sequence[int]) -> list[int]:
        """The rows that the units have in a parameter."""
        rows: list[int] = []
        start = 0
        for each in self.inputs[name]:
            rows += [row for unit in kept for row in range(start + unit * each, start + (unit + 1) * each)]
            start += self.count * each
        return rows

    def sizes(self, kept: int) -> Iterator[tuple[str, dict[int, int]]]:
        """The size of each stored tensor's dimension that shrinks, where so many units are kept."""
        for name, each in self.inputs.items():
            yield name, {int(name in self.transposed): kept * sum(each)}
        output = self.output.name
        yield output, {int(output not in self.transposed): kept * self.columns}


def units_of(checkpoint: Checkpoint, index: int, axis: Axis) -> tuple[Units, ...]:
    """The units of a block by the projection that reads them; the architecture must have the axis.

    All projections of a block have as many. There is more than one in a mixture of experts, and none in those of its
    blocks that have no experts.
    """
    architecture = checkpoint.architecture
    if axis == "feed_forward":
        channels = architecture.feed_forward
        assert channels is not None
        found: list[Units] = []
        for reader in _readers(checkpoint, index, axis):
            inputs = [name.replace("*", str(checkpoint.expert_of(reader))) for name in channels.inputs]
            output = checkpoint.linear_weight(index, reader)
            count = output.shape[1]
            rows = {name: (1,) * channels.fused for linear in inputs for name in _named(checkpoint, index, linear)}
            transposed = frozenset(filter(checkpoint.is_transposed, (*rows, output.name)))
            found.append(Units(count, reader, output, 1, rows, len(found) * count, transposed))
        return tuple(found)
    layout, heads = architecture.attention, heads_of(checkpoint)
    assert layout is not None
    output = checkpoint.linear_weight(index, layout.output)
    # Rows of a key/value head, or of the query heads that belong to it.
    rows = {
        name: (checkpoint.tensors[name].shape[0] // heads.keys,)
        for module in layout.inputs
        for name in _named(checkpoint, index, module)
    }
    return (Units(heads.keys, layout.output, output, heads.queries * heads.width, rows),)


def unit_count(checkpoint: Checkpoint, axis: Axis) -> int:
    """How many units each projection of an axis reads."""
    blocks = (units_of(checkpoint, index, axis) for index in range(checkpoint.num_blocks))
    return next(units[0].count for units in blocks if units)


def _readers(checkpoint: Checkpoint, index: int, axis: Axis) -> list[str]:
    """The projections of a block that read units of an axis, in the order in which the block runs them."""
    layout = getattr(checkpoint.architecture, axis)
    return [group[0] for group in checkpoint.inputs(index) if _pattern(layout.output).fullmatch(group[0])]


def _pattern(name: str) -> re.Pattern[str]:
    """What matches a layer's name, in which `*` stands for the number of an expert."""
    return re.compile(re.escape(name).replace(r"\*", r"\d+"))


def has_axis(checkpoint: Checkpoint, axis: Axis) -> bool:
    """Whether a model's architecture says how units of an axis are removed."""
    if axis == "attention":
        return checkpoint.architecture.attention is not None
    layout = checkpoint.architecture.feed_forward
    if layout is None or layout.size is None:
        return False
    return any(_readers(checkpoint, index, axis) for index in range(checkpoint.num_blocks))


@dataclass(frozen=True)
class Gate:
    """The part of a linear layer whose activation gates the channels of a block's feed-forward layers.

    Attributes:
        linear: the layer, relative to the block.
        channels: how many there are: its first outputs.
        writers: all layers that write the channels, relative to the block.
        reader: the layer that reads them.
    """

    linear: str
    channels: int
    writers: tuple[str, ...]
    reader: str


def gate_of(checkpoint: Checkpoint, index: int) -> Gate | None:
    """The gate of a block; None if its feed-forward layers have none, or are those of experts."""
    layout = checkpoint.architecture.feed_forward
    if layout is None or layout.of_experts or len(layout.inputs) * layout.fused != _GATE_AND_VALUE:
        return None
    if not _readers(checkpoint, index, "feed_forward"):
        return None
    channels = checkpoint.linear_weight(index, layout.output).shape[1]
    return Gate(layout.inputs[0], channels, layout.inputs, layout.output)


def adds_to_states(checkpoint: Checkpoint) -> bool:
    """Whether what the feed-forward layers write is added to the hidden states as it is.

    Not so where it is normalised or scaled first, or afterwards with the hidden states, or where experts write it, each
    for the tokens that are routed to it.
    """
    layout = checkpoint.architecture.feed_forward
    if layout is None or layout.normed or layout.of_experts:
        return False
    return bool(checkpoint.text_config.get("do_layer_norm_before", True))


def inputs_of(checkpoint: Checkpoint, axes: Iterable[Axis]) -> tuple[tuple[int, ...], ...]:
    """Which inputs of each block the projections have that read the units of these axes."""
    able = [axis for axis in axes if getattr(checkpoint.architecture, axis) is not None]
    found = []
    for index in range(checkpoint.num_blocks):
        readers = {name for axis in able for name in _readers(checkpoint, index, axis)}
        found.append(tuple(at for at, group in enumerate(checkpoint.inputs(index)) if readers & {*group}))
    return tuple(found)


def settings_of(checkpoint: Checkpoint, axis: Axis, kept: int) -> dict[str, Any]:
    """The settings of the text model's configuration with so many units."""
    if axis == "feed_forward":
        layout = checkpoint.architecture.feed_forward
        assert layout is not None
        assert layout.size is not None
        return {layout.size: kept}
    heads = heads_of(checkpoint)
    return {"num_attention_heads": heads.queries * kept, "num_key_value_heads": kept, "head_dim": heads.width}


def _named(checkpoint: Checkpoint, index: int, module: str) -> list[str]:
    """The names of a module's weight and bias in the checkpoint, as far as it has them."""
    path = f"{checkpoint.block_path(index)}.{module}"
    return [place.info.name for kind in ("weight", "bias") if (place := checkpoint.find(f"{path}.{kind}")) is not None]
