"""What is told of architectures, supported or not."""

import json

import pytest

from secateur_service.models.architectures import ARCHITECTURES, ROWS, WRAPPERS
from secateur_service.models.checkpoint import ModelRefusedError
from secateur_service.models.opening import open_checkpoint
from secateur_service.models.support import advice, nearest, obstacles, support_of


def test_of_a_supported_type_all_is_told():
    found = support_of("qwen3_moe")
    assert (found.class_name, found.is_known, found.nearest) == ("Qwen3MoeForCausalLM", True, "")
    assert "mlp.experts.*.gate_proj, mlp.experts.*.up_proj" in found.layers
    assert found.excluded == ("mlp.gate.weight",)
    assert found.axes == ("vocabulary", "blocks", "kv_heads", "feed_forward")


def test_of_a_multimodal_type_its_text_models_and_towers_are_told():
    found = support_of("llava")
    assert found.text_models == ("llama", "mistral", "qwen2", "qwen3", "phi3")
    assert found.towers == ("clip_vision_model", "siglip_vision_model", "pixtral")
    assert support_of("qwen3_vl").towers == ("qwen3_vl_vision",)  # files also call it by the model's own name
    plain = support_of("llama")
    assert plain.text_models == plain.towers == ()


def test_of_an_unsupported_type_what_stands_in_the_way_is_told_without_a_configuration():
    assert [reason.partition(":")[0] for reason in support_of("gemma3n").obstacles] == [
        *("hidden_size_per_layer_input", "altup_num_inputs", "num_kv_shared_layers")
    ]
    assert support_of("mamba").obstacles == support_of("llama").obstacles == ()


@pytest.mark.parametrize(
    ("model_type", "like", "is_known"),
    [
        ("minimax", "mixtral", True),  # by its configuration
        ("granitemoeshared", "granitemoe", True),
        ("lama", "llama", False),  # a misspelling
        ("qwen3-moe", "qwen3_moe", False),
        ("GPT2", "gpt2", False),
        ("Gemma3ForConditionalGeneration", "gemma3", False),  # a class
        ("LlamaForCausalLM", "llama", False),  # of several types
        ("whatever", "", False),
        ("vit", "", True),  # nothing in common
    ],
)
def test_the_nearest_type_is_named(model_type, like, is_known):
    found = support_of(model_type)
    assert (found.is_known, found.class_name) == (is_known, "")
    assert found.nearest.startswith(like) if like else not found.nearest
    assert ("nearest" in advice(model_type)) == bool(like)
    assert "--architecture" in advice(model_type)


def test_every_type_is_nearest_to_itself():
    assert {nearest(model_type) for model_type in ARCHITECTURES} <= {*ARCHITECTURES}


@pytest.mark.parametrize(
    ("config", "fields"),
    [
        ({"model_type": "gemma3n"}, ["hidden_size_per_layer_input", "altup_num_inputs", "num_kv_shared_layers"]),
        (
            {"model_type": "gemma3n_text", "num_kv_shared_layers": 0},
            ["hidden_size_per_layer_input", "altup_num_inputs"],
        ),
        ({"model_type": "gemma4", "text_config": {}}, ["hidden_size_per_layer_input"]),
        (
            {"model_type": "gemma4", "text_config": {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 2}},
            ["num_kv_shared_layers"],
        ),
        ({"model_type": "gemma4_text", "global_head_dim": 512}, ["hidden_size_per_layer_input"]),
        ({"model_type": "mamba"}, []),
        ({"model_type": "unheard of"}, []),
    ],
)
def test_what_stands_in_the_way_is_told_by_field(config, fields, tmp_path):
    assert [reason.partition(":")[0] for reason in obstacles(config)] == fields
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelRefusedError, match="is not supported") as caught:
        open_checkpoint(tmp_path)
    assert all(reason in str(caught.value) for reason in obstacles(config))
    assert ("blocks run one at a time" in str(caught.value)) == bool(fields)


def test_nothing_stands_in_the_way_of_supported_types():
    rows = {**ARCHITECTURES, **{name: ROWS[wrapper.texts[0]] for name, wrapper in WRAPPERS.items()}}
    assert {name for name in rows if obstacles({"model_type": name})} <= {
        name for name, row in rows.items() if row.excepted
    }
    assert support_of("gemma4").excepted == support_of("gemma4_text").excepted
    assert not obstacles({"model_type": "gemma4_text", "hidden_size_per_layer_input": 0, "attention_k_eq_v": True})
