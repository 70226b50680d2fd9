"""What config.json says of towers, projectors and the tokens that images take: rules that transformers' classes lack.

They let nearly everything through, and fail when the tower is built, or only when it sees an image.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from secateur_service.models.refusals import refused, refused_together

_TOWER = "vision_config"
_LARGEST = 2**31 - 1
_SIZES = re.compile(
    r"patch_size|image_size|num_channels|in_channels|num_heads|spatial_merge_size|temporal_patch_size|window_size|"
    r"tokens_per_second|out_hidden_size|num_position_embeddings|projection_dim|vision_output_dim|"
    r"projector_(input|output)_dim|mm_tokens_per_image|downsample_factor|image_seq_length|alignment_intermediate_size|"
    r"position_embedding_size|pooling_kernel_size|mm_embed_dim|mm_posemb_size|output_proj_dims"
)
_TOKENS = re.compile(r"(image|video|audio|vision|speech|boi|eoi|boa|eoa)(_\w+)?_token_(id|index)")
# Towers whose rotary parameters have a type of their own, which turns a quarter of a head with each axis.
_AXIAL = ("pixtral", "qwen2_5_vl_vision", "qwen3_vl_vision", "qwen3_5_vision", "gemma4_vision")
# Towers whose heads have a width of their own, or that have none.
_FREE = ("gemma4_vision", "gemma4_unified_vision")
_OF_AUDIO = re.compile(r"(audio|boa|eoa)_")
_LISTS = ("fullatt_block_indexes", "deepstack_visual_indexes")


def check_stated(config: Mapping[str, Any]) -> None:
    """Check single fields, without which the classes cannot even make a configuration.

    Args:
        config: the content of the config.json of a multimodal model.

    Raises:
        ModelRefusedError: no tower or projector can be built with one of the values.
    """
    for prefix, part in (("", config), (f"{_TOWER}.", config[_TOWER])):
        for key, value in part.items():
            if _SIZES.fullmatch(key) and not _is_whole(value, 1, _LARGEST):
                raise refused(f"{prefix}{key}", value, f"a whole number from 1 to {_LARGEST}")
    tower = config[_TOWER]
    width = tower.get("hidden_size")
    for key in ("num_heads", "num_attention_heads"):
        heads = tower.get(key)
        if isinstance(width, int) and isinstance(heads, int) and (heads < 1 or width % heads):
            raise refused(f"{_TOWER}.{key}", heads, f"a divisor of hidden_size, {width}")


def check_made(made: Any, config: Mapping[str, Any]) -> None:
    """Check fields together, with the classes' defaults for those that are missing.

    Args:
        made: transformers' configuration.
        config: the content of config.json.

    Raises:
        ModelRefusedError: no tower or projector can be built with one of the values, or none that sees an image.
    """
    tower, text = made.vision_config, made.get_text_config()
    if tower.model_type not in _FREE:
        _check_heads(tower)
    _check_rotary(tower)
    _check_patches(made, tower)
    for key in _LISTS:
        for block in getattr(tower, key, ()):
            if not _is_whole(block, 0, tower.depth - 1):
                raise refused(f"{_TOWER}.{key}", getattr(tower, key), f"numbers of blocks below depth, {tower.depth}")
    width = getattr(tower, "out_hidden_size", text.hidden_size)
    if width != text.hidden_size:
        raise refused(f"{_TOWER}.out_hidden_size", width, f"the hidden_size of text_config, {text.hidden_size}")
    if tower.model_type == "llama4_vision_model":
        _check_adapter(tower)
    if hasattr(made, "vision_feature_layer"):
        _check_layers(made, tower)
    _check_tokens(made, config, text.vocab_size)


def _check_heads(tower: Any) -> None:
    key = type(tower).attribute_map.get("num_attention_heads", "num_attention_heads")
    heads, width = tower.num_attention_heads, tower.hidden_size
    if width % heads:
        raise refused(f"{_TOWER}.{key}", heads, f"a divisor of hidden_size, {width}")
    own = getattr(tower, "head_dim", None) or width // heads
    if own != width // heads:
        raise refused(f"{_TOWER}.head_dim", own, f"{width // heads}, hidden_size by {key}")


def _check_rotary(tower: Any) -> None:
    rotary = getattr(tower, "rope_parameters", None)
    if rotary is None or not hasattr(type(tower), "rope_parameters"):
        return
    path = f"{_TOWER}.rope_parameters"
    theta = rotary.get("rope_theta")
    if type(theta) not in (int, float) or not 0 < theta < math.inf:
        raise refused(f"{path}.rope_theta", theta, "a number above 0")
    if tower.model_type in _AXIAL and rotary.get("rope_type") != "axial":
        raise refused(f"{path}.rope_type", rotary.get("rope_type"), "axial, or no rope_parameters")
    heads, width = tower.num_attention_heads, tower.hidden_size
    own = getattr(tower, "head_dim", None) or width // heads
    if own % 4 and tower.model_type in _FREE:
        raise refused(f"{_TOWER}.head_dim", own, "a multiple of 4")
    if own % 4:
        key = type(tower).attribute_map.get("num_attention_heads", "num_attention_heads")
        raise refused(f"{_TOWER}.{key}", heads, f"heads whose width is a multiple of 4, of hidden_size {width}")


def _check_patches(made: Any, tower: Any) -> None:
    image, patch = getattr(tower, "image_size", None), tower.patch_size
    if image is not None and image < patch:
        raise refused(f"{_TOWER}.image_size", image, f"at least patch_size, {patch}")
    pooled, side = getattr(tower, "pooling_kernel_size", None), getattr(tower, "position_embedding_size", None)
    if pooled is not None and side is not None and pooled > side:
        expected = f"at most position_embedding_size, {side}, which is how many patches an image may be wide"
        raise refused(f"{_TOWER}.pooling_kernel_size", pooled, expected)
    tokens = getattr(made, "mm_tokens_per_image", None)
    if hasattr(made, "mm_tokens_per_image"):
        side = math.isqrt(tokens) if tokens else 0
        across = image // patch
        if not side or side**2 != tokens or side > across or across // (across // side) != side:
            expected = f"the square of a number that divides {across}, image_size by patch_size of {_TOWER}"
            raise refused("mm_tokens_per_image", tokens, expected)


def _check_adapter(tower: Any) -> None:
    """Check the adapter of Llama 4, which reads the patches of a square side by side."""
    ratio = tower.pixel_shuffle_ratio
    if not 0 < ratio <= 1:
        raise refused(f"{_TOWER}.pixel_shuffle_ratio", ratio, "a number above 0 and at most 1")
    read = int(tower.hidden_size / ratio**2)
    if tower.intermediate_size != read:
        expected = f"{read}, hidden_size by the square of pixel_shuffle_ratio"
        raise refused(f"{_TOWER}.intermediate_size", tower.intermediate_size, expected)
    for key in ("projector_input_dim", "vision_output_dim"):
        if getattr(tower, key) != tower.projector_output_dim:
            expected = f"projector_output_dim, {tower.projector_output_dim}"
            raise refused(f"{_TOWER}.{key}", getattr(tower, key), expected)


def _check_layers(made: Any, tower: Any) -> None:
    """Check which hidden states of the tower are read: before its first block, and after each."""
    layers, blocks = made.vision_feature_layer, tower.num_hidden_layers
    many = made.model_type == "llava"
    chosen = layers if isinstance(layers, (list, tuple)) else [layers]
    if not (_all_within(chosen, -blocks - 1, blocks) and (len(chosen) == 1 or (many and chosen))):
        expected = f"a whole number from {-blocks - 1} to {blocks}, of a tower of {blocks} blocks"
        raise refused("vision_feature_layer", layers, f"{expected}, or a list of such" if many else expected)


def _check_tokens(made: Any, config: Mapping[str, Any], vocabulary: int) -> None:
    """Check that the tokens whose places images and sounds take are in the vocabulary; without audio, none of it."""
    key = type(made).attribute_map.get("image_token_id", "image_token_id")
    stated = {name: value for name, value in config.items() if _TOKENS.fullmatch(name) and value is not None}
    if getattr(made, "audio_config", None) is None:
        stated = {name: value for name, value in stated.items() if not _OF_AUDIO.match(name)}
    name = "image_token_id" if "image_token_id" in config else key
    needed = {name: made.image_token_id, **stated}
    wrong = {name: value for name, value in needed.items() if not _is_whole(value, 0, vocabulary - 1)}
    if wrong:
        each = "an id" if len(wrong) == 1 else "ids"
        raise refused_together(wrong, f"{each} below the vocab_size of text_config, {vocabulary}")


def _is_whole(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _all_within(values: Iterable[object], low: int, high: int) -> bool:
    return all(_is_whole(value, low, high) for value in values)
