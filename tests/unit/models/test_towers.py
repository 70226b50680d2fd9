"""Towers and projectors of multimodal models: their shapes are told without torch, and bad settings refused by name."""

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from secateur_service.models.architectures import ROWS, WRAPPERS
from secateur_service.models.building import stored_tensors
from secateur_service.models.checkpoint import Checkpoint, ModelRefusedError
from secateur_service.models.configuration import whole_configuration
from secateur_service.models.refusals import refused_by_model
from support.configurations.wrappers import CONFIGS

_TOWER = CONFIGS["gemma3"]["vision_config"]
_GEMMA4 = CONFIGS["gemma4"]
_CLIPPED = {"use_clipped_linears": True}
VARIANTS = [
    *((kind, {}) for kind in CONFIGS),
    ("gemma4", {"vision_config": {**_GEMMA4["vision_config"], "standardize": False}, "audio_config": None}),
    ("gemma4", {part: {**_GEMMA4[part], **_CLIPPED} for part in ("vision_config", "audio_config")}),
    ("gemma4_unified", {"audio_config": {"model_type": "gemma4_unified_audio", "output_proj_dims": 24}}),
    ("aya_vision", {"alignment_intermediate_size": 40, "downsample_factor": 1}),
    ("gemma3", {"vision_config": {**_TOWER, "vision_use_head": True, "num_channels": 1, "num_hidden_layers": 3}}),
    ("llava", {"vision_config": {**_TOWER, "vision_use_head": True}, "vision_feature_layer": [-1, -2]}),
    ("llava", {"vision_config": CONFIGS["mistral3"]["vision_config"], "multimodal_projector_bias": False}),
    ("mistral3", {"spatial_merge_size": 3, "multimodal_projector_bias": True}),
    ("qwen3_vl", {"vision_config": {**CONFIGS["qwen3_vl"]["vision_config"], "deepstack_visual_indexes": [0, 1]}}),
]


@pytest.mark.parametrize(("kind", "changes"), VARIANTS)
def test_what_is_told_of_towers_is_what_transformers_builds(kind, changes):
    config = AutoConfig.for_model(kind, **copy.deepcopy({**CONFIGS[kind], **changes}))
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    further = (paths for part, paths in WRAPPERS[kind].further if getattr(config, part) is not None)
    built = {
        f"{path}.{name}": tuple(tensor.shape)
        for path in (*WRAPPERS[kind].beside, *(path for paths in further for path in paths))
        for name, tensor in stored_tensors(model.get_submodule(path))
    }
    assert WRAPPERS[kind].shapes(config) == built


def changed(kind, path, value):
    """The content of a config.json in which one field is different."""
    config = {**copy.deepcopy(CONFIGS[kind]), "model_type": kind}
    inner = config
    for key in path.split(".")[:-1]:
        inner = inner[key]
    inner[path.rpartition(".")[2]] = value
    return config


def read(kind, path, value):
    """What admission reads of such a configuration."""
    return whole(changed(kind, path, value))


def whole(config):
    wrapper = WRAPPERS[config["model_type"]]
    row = wrapper.around(ROWS[config["text_config"]["model_type"]])
    return whole_configuration(Checkpoint(folder=None, config=config, architecture=row, tensors={}, num_blocks=1))


def refusal(kind, path, value):
    return whole_refusal(changed(kind, path, value))


def whole_refusal(config):
    with pytest.raises(ModelRefusedError) as caught:
        whole(config)
    return str(caught.value)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_tower_that_no_image_passes_is_refused_by_the_field_and_what_it_should_be(kind):
    tower = CONFIGS[kind]["vision_config"]
    heads = next((key for key in ("num_heads", "num_attention_heads") if key in tower), None)
    image = "image_token_id" if "image_token_id" in CONFIGS[kind] else "image_token_index"
    for path, value, expected in (
        ("vision_config.patch_size", 0, "a whole number from 1"),
        ("vision_config.patch_size", [14, 14], "a whole number from 1"),
        *([(f"vision_config.{heads}", 0, "a whole number from 1")] if heads else []),
        *([(f"vision_config.{heads}", 3, "a divisor of hidden_size, 16")] if heads else []),
        (image, 260, "an id below the vocab_size of text_config, 260"),
        ("video_token_id", -1, "an id below the vocab_size of text_config, 260"),
    ):
        assert refusal(kind, path, value).startswith(f"config.json: {path} is {value}; expected {expected}")


@pytest.mark.parametrize(
    ("kind", "path", "value", "expected"),
    [
        ("gemma3", "mm_tokens_per_image", -7, "a whole number from 1"),
        ("gemma3", "mm_tokens_per_image", 3, "the square of a number that divides 2, image_size by patch_size"),
        ("gemma3", "vision_config.image_size", 7, "at least patch_size, 14"),
        ("llava", "vision_feature_layer", 77, "a whole number from -3 to 2, of a tower of 2 blocks, or a list of such"),
        ("llava", "vision_feature_layer", [-1, 3], "a whole number from -3 to 2"),
        ("aya_vision", "vision_feature_layer", [-1, -2], "a whole number from -3 to 2, of a tower of 2 blocks"),
        ("mistral3", "vision_feature_layer", -4, "a whole number from -3 to 2"),
        ("mistral3", "projector_hidden_act", "swiglu", "one of gelu"),
        ("mistral3", "spatial_merge_size", 0, "a whole number from 1"),
        ("mistral3", "vision_config.head_dim", 4, "8, hidden_size by num_attention_heads"),
        ("mistral3", "vision_config.rope_parameters", {"rope_type": "x", "rope_theta": 1.0}, "axial, or no rope_pa"),
        ("gemma4", "vision_config.rope_parameters", {"rope_type": "zzz", "rope_theta": 1.0}, "axial, or no rope_param"),
        *[
            ("gemma4", "vision_config.rope_parameters", {"rope_type": "axial", "rope_theta": theta}, "a number above 0")
            for theta in (-1, 0, float("inf"), float("nan"), None)
        ],
        ("gemma4", "vision_config.head_dim", 6, "a multiple of 4"),
        ("gemma4", "vision_config.pooling_kernel_size", 9, "at most position_embedding_size, 8"),
        ("gemma4", "audio_token_id", 260, "an id below the vocab_size of text_config, 260"),
        ("llama4", "vision_config.pixel_shuffle_ratio", 0.0, "a number above 0 and at most 1"),
        ("llama4", "vision_config.intermediate_size", 32, "64, hidden_size by the square of pixel_shuffle_ratio"),
        ("llama4", "vision_config.projector_input_dim", 8, "projector_output_dim, 16"),
        ("qwen2_5_vl", "vision_config.fullatt_block_indexes", [2], "numbers of blocks below depth, 2"),
        ("qwen3_vl", "vision_config.deepstack_visual_indexes", [-1], "numbers of blocks below depth, 2"),
        ("qwen3_5", "vision_config.out_hidden_size", 32, "the hidden_size of text_config, 64"),
        ("qwen3_5", "video_token_id", 10**6, "an id below the vocab_size of text_config, 260"),
    ],
)
def test_what_only_some_towers_have_is_checked_too(kind, path, value, expected):
    said = refusal(kind, path, value)
    assert said.startswith(f"config.json: {path}")
    assert f"; expected {expected}" in said


def test_tokens_of_a_part_that_is_not_there_are_free_and_the_others_are_told_at_once():
    beyond = {"audio_token_id": 260, "boa_token_id": 256_000, "eoa_token_index": 258_883}
    config = {**copy.deepcopy(CONFIGS["gemma4"]), "model_type": "gemma4", **beyond}
    said = whole_refusal(config)
    assert said == (
        "config.json: audio_token_id is 260, boa_token_id is 256000, eoa_token_index is 258883; "
        "expected ids below the vocab_size of text_config, 260"
    )
    assert whole(config | {"audio_config": None}).audio_config is None
    silent = config | {"audio_config": None}
    assert whole_refusal(silent | {"eoi_token_id": 260}).startswith("config.json: eoi_token_id is 260; expected an id")


@pytest.mark.parametrize("value", [None, -1, 0.5, "x", [], {"a": 1}])
@pytest.mark.parametrize("kind", CONFIGS)
def test_any_value_of_any_field_is_refused_in_a_sentence_that_names_it_or_builds_a_tower(kind, value):
    refusals = {}
    for prefix, part in (("", CONFIGS[kind]), ("vision_config.", CONFIGS[kind]["vision_config"])):
        for key in part.keys() - {"text_config", "vision_config", "model_type"}:
            try:
                made = read(kind, f"{prefix}{key}", value)
            except ModelRefusedError as error:
                refusals[f"config.json: {prefix}{key}"] = str(error)
                continue
            with torch.device("meta"):
                AutoModelForImageTextToText.from_config(made)
    assert [said for field, said in refusals.items() if not said.startswith(field)] == []


def test_what_a_model_fails_on_is_told_with_the_fields_that_the_failing_code_reads():
    config = changed("gemma3", "vision_config.patch_size", 0)
    made = AutoConfig.for_model(**config)
    with pytest.raises(ZeroDivisionError) as caught, torch.device("meta"):
        AutoModelForImageTextToText.from_config(made)
    said = str(refused_by_model(config, caught.value))
    assert said.startswith("config.json: vision_config.image_size is 28 and vision_config.patch_size is 0, which")
    assert said.endswith("correct one of them")
    assert "compare it with" in str(refused_by_model({}, caught.value))


def test_every_tower_that_may_lie_in_a_wrapper_has_shapes():
    for kind in CONFIGS:
        tower = CONFIGS[kind]["vision_config"]
        for model_type in WRAPPERS[kind].towers:
            settings = copy.deepcopy({**CONFIGS[kind], "vision_config": {**tower, "model_type": model_type}})
            config = AutoConfig.for_model(kind, **settings)
            assert WRAPPERS[kind].shapes(config)
