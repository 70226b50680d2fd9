"""The configuration of a model from which blocks are removed: what it says of each block by number goes with the block.

Does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from secateur_service.models.checkpoint import BLOCKS, Checkpoint
from secateur_service.models.configuration import text_configuration
from secateur_service.models.units import attending_blocks

# Rules for the kinds of blocks that hold for consecutive numbers only.
_PATTERNS = ("sliding_window_pattern", "_sliding_window_pattern")


def removable(checkpoint: Checkpoint, kept: Sequence[int]) -> list[int]:
    """Which of the blocks that are kept can be removed next.

    One with attention has to stay where there are any: by its keys and values transformers counts the tokens before.
    Where the last block is of a fixed kind, one of that kind has to be last.
    """
    attending = [index for index in attending_blocks(checkpoint) if index in kept]
    return [index for index in kept if attending != [index] and ends_well(checkpoint, [*filter(index.__ne__, kept)])]


def ends_well(checkpoint: Checkpoint, kept: Sequence[int]) -> bool:
    """Whether the last of the blocks that are kept is of the kind that transformers makes of it."""
    last = checkpoint.architecture.last_kind
    return last is None or not kept or text_configuration(checkpoint).layer_types[kept[-1]] == last


def without_blocks(checkpoint: Checkpoint, config: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """A configuration with only some blocks.

    Args:
        checkpoint: the model with all of them.
        config: content of its config.json, perhaps changed in other respects.
        kept: the numbers of the blocks that stay, ascending.
    """
    return checkpoint.changed(config, lambda settings: _without_blocks(checkpoint, settings, kept))


def _without_blocks(checkpoint: Checkpoint, config: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """The same for the settings of the text model."""
    made = text_configuration(checkpoint)
    changed = {key: value for key, value in config.items() if key not in _PATTERNS}
    spelled = any(isinstance(config.get(key), str) for key in checkpoint.architecture.per_block)
    for key in checkpoint.architecture.per_block:
        entries = getattr(made, key, None)
        if isinstance(entries, str):
            changed |= {key: "".join(entries[index] for index in kept)} if key in config else {}
        elif entries is not None and not (spelled and key not in config):
            changed[key] = [entries[index] for index in kept]
    own = changed.get("per_layer_config")
    if own is not None:
        of_number = {int(number): sizes for number, sizes in own.items()}
        left = {str(place): of_number[index] for place, index in enumerate(kept) if index in of_number}
        changed["per_layer_config"] = left
    if "max_window_layers" in changed:  # the first so many attend to everything
        changed["max_window_layers"] = sum(index < changed["max_window_layers"] for index in kept)
    if hasattr(made, "first_k_dense_replace"):
        changed["first_k_dense_replace"] = sum(index < made.first_k_dense_replace for index in kept)
    if hasattr(made, "moe_layers"):
        changed["moe_layers"] = [place for place, index in enumerate(kept) if index in made.moe_layers]
    if hasattr(made, "moe_layer_start_index"):  # one in every place from the first to the last
        first, last = made.moe_layer_start_index, made.moe_layer_end_index
        before, until = (sum(index < bound for index in kept) for bound in (first, last + 1))
        changed |= {"moe_layer_start_index": before, "moe_layer_end_index": until - 1 if until else 0}
        if before >= until:
            changed |= {"moe_layer_start_index": len(kept), "moe_layer_end_index": len(kept) - 1}
    if hasattr(made, "mlp_only_layers"):
        dense = [place for place, index in enumerate(kept) if _has_no_experts(made, index)]
        changed |= {"decoder_sparse_step": 1, "mlp_only_layers": dense}
    return {**changed, **{key: len(kept) for key in BLOCKS if key in config}}


def _has_no_experts(made: Any, index: int) -> bool:
    """Whether a block of a mixture of experts is dense: see Qwen3MoeDecoderLayer of transformers."""
    return index in (made.mlp_only_layers or []) or bool((index + 1) % made.decoder_sparse_step)
