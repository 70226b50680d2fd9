"""Every value that a key of config.json may have: it is refused by name, or the model runs with it."""

import contextlib
import json
import math
import warnings

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from secateur_service.models.architectures import ARCHITECTURES
from secateur_service.models.checkpoint import ModelRefusedError
from secateur_service.models.configuration import ACTIVATIONS, ROPE_TYPES, read_configuration
from secateur_service.models.opening import open_checkpoint
from secateur_service.models.streaming import StreamedModel
from support.configurations import marked
from support.models import CONFIGS, build_model, config_of

NUMBERS = [-1, 0, 1, 3, 2**40, 2**70, 0.5, -0.5, 8.0, math.inf, math.nan]
VALUES = [None, True, False, *NUMBERS, "x", "8", "", [], [1], ["x"], {}, {"a": 1}, [1.5] * 8, ["full_attention"] * 3]
ROTARY = [
    *({"rope_type": kind} for kind in (*sorted(ROPE_TYPES), "su", "x", None, 1, [])),
    *(
        {"rope_type": kind, "factor": value}
        for kind in sorted(ROPE_TYPES)
        for value in (None, -1, 0, 2.0, "x", math.inf)
    ),
    *({"rope_theta": value} for value in VALUES),
    *({"type": "linear", "factor": value} for value in VALUES),
    *({"rope_type": "longrope", "short_factor": value, "long_factor": [1.0] * 8} for value in VALUES),
    *(
        {"rope_type": "yarn", "factor": 2.0, key: value}
        for key in ("beta_fast", "attention_factor")
        for value in VALUES
    ),
    *({"rope_type": "default", "partial_rotary_factor": value} for value in VALUES),
    {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4, "partial_rotary_factor": 0.25},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0},
    {"sliding_attention": None, "full_attention": {"rope_type": "default"}},
]
NAMES = ["to_dict", "get_text_config", "attribute_map", "per_layer_config", "use_return_dict", "num_labels", "x"]


@pytest.fixture(autouse=True, scope="module")
def quiet():
    before = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity(transformers.utils.logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    transformers.utils.logging.set_verbosity(before)


def saved(name):
    """What is in the file of a model, with all defaults spelled out."""
    config = AutoConfig.for_model(name.partition(" ")[0], **config_of(name))
    return {**config_of(name), **json.loads(config.to_json_string(use_diff=False))}


def keys_of(config):
    return [key for key in config if key != "model_type"]


def values_of(config, key):
    """What stands in the key's place: values of other types and sizes, and pieces of the right one."""
    right = config.get(key)
    pieces = [right[:-1], right + right[:1]] if isinstance(right, list) else []
    return [*VALUES, *pieces, *(ROTARY if key in ("rope_parameters", "rope_scaling") else [])]


@pytest.mark.parametrize("name", marked(CONFIGS))
@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_value_of_every_key_is_refused_in_one_way_or_read(name, data):
    config, model_type = saved(name), name.partition(" ")[0]
    key = data.draw(st.sampled_from([*keys_of(config), "rope_scaling", *NAMES]), label="key")
    if data.draw(st.booleans(), label="with another value"):
        config[key] = data.draw(st.sampled_from(values_of(config, key)), label="value")
    else:
        config.pop(key, None)
    with contextlib.suppress(ModelRefusedError):
        assert read_configuration(config, model_type).model_type == model_type


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"max_position_embeddings": 128.0}, "max_position_embeddings is 128.0; expected a whole number"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3; expected a divisor of num_attention_heads, 4"),
        ({"initializer_range": "0.02"}, "initializer_range is '0.02'; expected a number"),
        ({"bos_token_id": "1"}, "bos_token_id is '1', which transformers refuses"),
        ({"eos_token_id": [1, "2"]}, r"eos_token_id is \[1, '2'\], which transformers refuses"),
        ({"hidden_act": "swiglu"}, "hidden_act is 'swiglu'; expected one of gelu"),
        ({"rope_scaling": {"rope_type": "su", "factor": 2.0}}, "rope_type is 'su'; expected one of default, dynamic"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope_parameters is .*, which transformers refuses .*factor"),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4, "partial_rotary_factor": 0.25}},
            "partial_rotary_factor is 0.25; expected 1 with rope_type yarn, because transformers rotates whole heads",
        ),
        ({"pad_token_id": 2**40}, "pad_token_id is .*; expected null, or an id below vocab_size"),
        ({"rms_norm_eps": math.nan}, "rms_norm_eps is nan; expected a finite number"),
        ({"hidden_size": -64}, "hidden_size is -64; expected a whole number from 1"),
        ({"num_hidden_layers": 2**31 - 1}, "num_hidden_layers is 2147483647; expected a whole number from 1 to 10000"),
        ({"num_labels": 10**9}, "num_labels is 1000000000; expected a whole number of at most 100000"),
        ({"to_dict": 1}, "to_dict is not part of a llama configuration"),
        ({"torch_dtype": "float8_e4m3fn"}, "torch_dtype is 'float8_e4m3fn'; expected one of auto, bfloat16"),
    ],
)
def test_a_refusal_names_the_key_what_was_found_and_what_is_expected(changes, complaint):
    with pytest.raises(ModelRefusedError, match=complaint):
        read_configuration({**saved("llama"), **changes}, "llama")


@pytest.mark.parametrize(
    ("name", "changes", "complaint"),
    [
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention is True; expected false"),
        ("gpt2", {"n_inner": 0}, "n_inner is 0; expected a whole number from 1"),
        ("xglm", {"num_layers": 10**6}, "num_layers is 1000000; expected a whole number from 1 to 10000"),
        ("stablelm", {"head_dim": 8}, "head_dim is 8; expected 16, hidden_size by num_attention_heads"),
        ("starcoder2", {"residual_dropout": 2}, "residual_dropout is 2; expected a number from 0 to 1"),
        ("nemotron", {"num_key_value_heads": None}, "num_key_value_heads is .*because nemotron models have no default"),
        ("hunyuan_v1_dense", {"head_dim": None}, "head_dim is .*because hunyuan_v1_dense models have no default"),
    ],
)
def test_what_transformers_classes_would_only_fail_with_later_is_refused(name, changes, complaint):
    with pytest.raises(ModelRefusedError, match=complaint):
        read_configuration({**saved(name), **changes}, name)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"layer_types": ["full_attention"] * 2}, "layer_types|num_hidden_layers"),
        ({"layer_types": ["full_attention", "linear_attention", "full_attention"]}, "layer_types is"),
        (
            {"layer_types": ["sliding_attention"] * 3, "sliding_window": None},
            "sliding_window is None; expected a number",
        ),
    ],
)
def test_types_of_layers_are_those_of_the_architecture_one_for_each(changes, complaint):
    with pytest.raises(ModelRefusedError, match=complaint):
        read_configuration({**saved("gemma3_text"), **changes}, "gemma3_text")


@pytest.mark.parametrize(
    ("name", "changes", "complaint"),
    [
        (
            "smollm3",
            {"no_rope_layers": [1, 0]},
            r"no_rope_layers is \[1, 0\]; expected a list of 3, one for each block",
        ),
        ("smollm3", {"no_rope_layers": [1, 0, 2]}, "no_rope_layers is .*; expected a list of 0 and 1"),
        ("helium", {"head_dim": 8}, "head_dim is 8; expected 16, hidden_size by num_attention_heads"),
        ("ministral3", {"rope_parameters": {"rope_theta": 1e4}}, "llama_4_scaling_beta is None; expected a number"),
        ("olmo3", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; expected 1 with rope_type yarn"),
        ("granite", {"logits_scaling": 0}, "logits_scaling is 0; expected a number above 0"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True; expected false"),
        ("llama", {"hidden_act": "xielu"}, "hidden_act is 'xielu'; expected one of gelu"),
        ("apertus", {"hidden_act": "prelu"}, "hidden_act is 'prelu'; expected one of gelu"),
        ("exaone4", {"sliding_window_pattern": "LLX"}, "sliding_window_pattern is 'LLX'; expected .*letters L and G"),
        ("ministral", {"head_dim": None}, "head_dim is None; expected a number, because ministral models have no"),
        ("exaone_moe", {"is_moe_layer": [True]}, r"is_moe_layer is \[True\]; expected a list of 3, one for each block"),
        ("glm4_moe_lite", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; expected 1 with rope_type"),
        (
            "solar_open",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "partial_rotary_factor is 0.5; expected 1 with rope_type default, because transformers rotates whole heads",
        ),
    ],
)
def test_what_transformers_would_only_notice_in_the_middle_of_a_model_is_refused(name, changes, complaint):
    with pytest.raises(ModelRefusedError, match=complaint):
        read_configuration({**saved(name), **changes}, name)


@pytest.mark.parametrize("name", ["exaone4", "exaone_moe"])
def test_a_pattern_of_letters_is_read_beside_the_kinds_of_blocks_that_it_stands_for(name):
    """As in the config.json of EXAONE 4.0 32B and K-EXAONE."""
    kinds = config_of(name)["layer_types"]
    made = read_configuration({**config_of(name), "sliding_window_pattern": "LLLG"}, name)
    assert made.layer_types == kinds


@pytest.fixture(scope="module", params=marked(CONFIGS))
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("configured")
    build_model(request.param).save_pretrained(folder)
    return request.param, folder, json.loads((folder / "config.json").read_text())


@given(data=st.data())
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_read_runs(folder, data):
    name, path, config = folder
    key = data.draw(st.sampled_from([*keys_of(config), *(set(saved(name)) - set(config))]), label="key")
    value = data.draw(st.sampled_from(values_of(config, key)), label="value")
    (path / "config.json").write_text(json.dumps({**config, key: value}))
    tokens = torch.arange(8, 24).reshape(2, 8)
    # The one refusal, or what ends as NON_FINITE; anything else is a defect.
    with contextlib.suppress(ModelRefusedError, FloatingPointError):
        checkpoint = open_checkpoint(path)
        model = StreamedModel(checkpoint, torch.device("cpu"), torch.float32)
        (states,) = model.embed([tokens])
        with model.block(0) as block:
            model.run_block(block, 0, states)


def test_the_tables_are_those_of_transformers():
    assert set(ACT2FN) - {"prelu", "xielu"} == ACTIVATIONS  # these two have parameters
    assert {"default", *ROPE_INIT_FUNCTIONS} == ROPE_TYPES
    for model_type, architecture in ARCHITECTURES.items():
        kind = getattr(transformers, architecture.class_name)
        ignored = [pattern.removeprefix("^") for pattern in kind._keys_to_ignore_on_load_unexpected or ()]
        ahead = [pattern for pattern in ignored if architecture.predicts_ahead and r"\.layers\." in pattern]
        elsewhere = [
            pattern
            for pattern in ignored
            if any(pattern in beginning or beginning in pattern for beginning in architecture.left_out)
        ]
        assert {*ignored} - {*ahead, *elsewhere} <= {*architecture.unread}
        needed = {key: config_of(model_type)[key] for key in architecture.required}
        for config in ({"model_type": model_type, **needed}, CONFIG_MAPPING[model_type](**needed).to_dict()):
            if model_type == "granitemoehybrid":  # without any attention by default
                config["layer_types"] = ["linear_attention"] * 31 + ["full_attention"]
            assert read_configuration(config, model_type).model_type == model_type


WIDE = {"head_dim": 32, "num_key_value_heads": 1}


def test_sizes_of_another_kind_of_block_are_read_however_they_are_written():
    published = {key: value for key, value in saved("gemma4_text").items() if key != "per_layer_config"}
    written = {**published, "per_layer_config": {"1": WIDE, "02": WIDE}}
    for key in ("global_head_dim", "num_global_key_value_heads"):
        del written[key]
    for config in (published, written):
        made = read_configuration(config, "gemma4_text")
        assert [each.head_dim for each in made.per_layer_config] == [16, 32, 32]
        assert [each.num_key_value_heads for each in made.per_layer_config] == [2, 1, 1]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"per_layer_config": [1]}, r"per_layer_config is \[1\]; expected an object with the numbers of blocks"),
        ({"per_layer_config": {"x": WIDE}}, "per_layer_config.x is .*; expected the number of a block, with head_dim"),
        ({"per_layer_config": {"1": {"to_dict": 1}}}, "per_layer_config.1 is .*; expected the number of a block"),
        ({"per_layer_config": {"1": {"head_dim": -1}}}, "per_layer_config.1.head_dim is -1; expected a whole number"),
        ({"per_layer_config": {"1": WIDE}}, "per_layer_config gives blocks of one kind different sizes"),
        ({"per_layer_config": {"7": WIDE}}, "per_layer_config.7 is .*, which transformers refuses"),
        ({"per_layer_config": {key: {"num_key_value_heads": 3} for key in "12"}}, "num_key_value_heads is 3; expected"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, "rope_parameters.*; expected an object"),
        ({"use_bidirectional_attention": "all"}, "expected false, null or vision"),
        ({"top_k_experts": 5}, "top_k_experts is 5; expected at most the number of experts, 4"),
        ({"moe_intermediate_size": None}, "moe_intermediate_size is None; expected a whole number"),
        ({"num_experts": None}, "num_experts is None; expected a whole number"),
    ],
)
def test_what_transformers_fails_at_in_blocks_of_two_kinds_is_refused(changes, complaint):
    with pytest.raises(ModelRefusedError, match=complaint):
        read_configuration({**saved("gemma4_text"), **changes}, "gemma4_text")


def test_only_blocks_that_may_differ_are_described_by_number():
    with pytest.raises(ModelRefusedError, match="per_layer_config is not part of a llama configuration; remove it"):
        read_configuration({**saved("llama"), "per_layer_config": {}}, "llama")
