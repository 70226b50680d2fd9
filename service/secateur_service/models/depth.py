"""The configuration of a model from which blocks are removed: what it says of each block by number goes with the block.

Does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from secateur_service.models.checkpoint import Checkpoint
from secateur_service.models.configuration import text_configuration

# Rules for the kinds of blocks that hold for consecutive numbers only.
_PATTERNS = ("sliding_window_pattern", "_sliding_window_pattern")


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
    for key in checkpoint.architecture.per_block:
        entries = getattr(made, key, None)
        if entries is not None:
            changed[key] = [entries[index] for index in kept]
    if "max_window_layers" in changed:  # the first so many attend to everything
        changed["max_window_layers"] = sum(index < changed["max_window_layers"] for index in kept)
    if hasattr(made, "mlp_only_layers"):
        dense = [place for place, index in enumerate(kept) if _has_no_experts(made, index)]
        changed |= {"decoder_sparse_step": 1, "mlp_only_layers": dense}
    size = "num_hidden_layers" if "num_hidden_layers" in config else "n_layer"
    return {**changed, size: len(kept)}


def _has_no_experts(made: Any, index: int) -> bool:
    """Whether a block of a mixture of experts is dense: see Qwen3MoeDecoderLayer of transformers."""
    return index in (made.mlp_only_layers or []) or bool((index + 1) % made.decoder_sparse_step)
