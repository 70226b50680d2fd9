"""Configurations of multimodal models as they are published, and models whose parts do not belong together."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from secateur_service.commands.demo.tokenizer import save_byte_tokenizer
from secateur_service.models.architectures import ROWS, WRAPPERS
from secateur_service.models.belonging import check_model
from secateur_service.models.checkpoint import ModelRefusedError
from secateur_service.models.opening import open_checkpoint
from secateur_service.models.wrapping import text_settings, with_text, with_token_ids
from support.configurations.wrappers import CONFIGS
from support.wrappers import build_wrapper

GEMMA = {
    "model_type": "gemma3",
    "text_config": {"model_type": "gemma3_text", "hidden_size": 2560},
    "eoi_token_index": 9,
}
LLAVA = {"model_type": "llava", "text_config": {"model_type": "llama", "vocab_size": 32064}}
QWEN = {
    "model_type": "qwen2_5_vl",
    "hidden_size": 2048,
    "num_hidden_layers": 36,
    "rope_theta": 1e6,
    "image_token_id": 5,
}


def settings(config, *, has_head=False):
    return text_settings(config, WRAPPERS[config["model_type"]], has_head=has_head)


def test_what_a_configuration_leaves_out_is_what_transformers_assumes():
    found = settings(GEMMA)
    assert (found["vocab_size"], found["hidden_size"], found["num_hidden_layers"]) == (262_208, 2560, 26)
    found = settings(LLAVA)
    assert (found["vocab_size"], found["hidden_size"], found["num_hidden_layers"]) == (32_064, 4096, 32)
    assert settings({**LLAVA, "text_config": {}})["model_type"] == "llama"
    found = settings(QWEN)
    assert (found["model_type"], found["hidden_size"], found["vocab_size"]) == ("qwen2_5_vl_text", 2048, 152_064)
    assert "image_token_id" not in found


@pytest.mark.parametrize(
    ("config", "of_text", "has_head", "tied"),
    [
        (GEMMA, {}, False, True),
        (GEMMA, {"tie_word_embeddings": False}, False, True),  # Gemma3Config does not ask its text model
        ({**GEMMA, "tie_word_embeddings": False}, {}, True, False),
        ({"model_type": "mistral3"}, {"model_type": "mistral"}, True, False),  # as published: nothing says so
        ({"model_type": "mistral3", "tie_word_embeddings": True}, {"model_type": "mistral"}, True, True),
        (LLAVA, {}, True, False),
        (LLAVA, {"tie_word_embeddings": True}, False, True),
        ({**LLAVA, "tie_word_embeddings": False}, {"tie_word_embeddings": True}, False, True),
        ({"model_type": "qwen3_vl"}, {"tie_word_embeddings": True}, True, False),
        ({"model_type": "llama4"}, {"tie_word_embeddings": True}, False, True),  # its head is its text model's own
        ({"model_type": "llama4", "tie_word_embeddings": True}, {}, True, False),
    ],
)
def test_whether_the_head_is_the_embedding_is_read_as_the_class_does(config, of_text, has_head, tied):
    whole = {**config, "text_config": {**config.get("text_config", {}), **of_text}}
    assert settings(whole, has_head=has_head)["tie_word_embeddings"] is tied


def test_changed_settings_stand_where_the_old_ones_did():
    changed = with_text(GEMMA, WRAPPERS["gemma3"], {**GEMMA["text_config"], "hidden_size": 7})
    assert changed == {**GEMMA, "text_config": {"model_type": "gemma3_text", "hidden_size": 7}}
    changed = with_text(QWEN, WRAPPERS["qwen2_5_vl"], {"model_type": "qwen2_5_vl_text", "hidden_size": 7})
    assert changed == {"model_type": "qwen2_5_vl", "hidden_size": 7, "image_token_id": 5}
    repeated = {**LLAVA, "vocab_size": 32064, "hidden_size": 1}
    changed = with_text(repeated, WRAPPERS["llava"], {"model_type": "llama", "vocab_size": 8})
    assert changed == {
        **LLAVA,
        "text_config": {"model_type": "llama", "vocab_size": 8},
        "vocab_size": 8,
        "hidden_size": 1,
    }


def test_tokens_that_only_a_class_names_are_named():
    found = with_token_ids(GEMMA, WRAPPERS["gemma3"], settings(GEMMA))
    assert (found["boi_token_index"], found["eoi_token_index"], found["image_token_index"]) == (255_999, 9, 262_144)
    assert found["text_config"]["eos_token_id"] == 1
    alias = {**LLAVA, "image_token_id": 7}
    assert "image_token_index" not in with_token_ids(alias, WRAPPERS["llava"], settings(alias))


def test_every_wrapper_names_rows_and_has_a_tiny_model():
    assert WRAPPERS.keys() == CONFIGS.keys()
    assert all(set(wrapper.texts) <= ROWS.keys() for wrapper in WRAPPERS.values())


def saved(folder, kind):
    build_wrapper(kind).save_pretrained(folder)
    return json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")


def refusal(folder, config, tensors):
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelRefusedError) as caught:
        take(folder)
    return str(caught.value)


def take(folder):
    check_model(open_checkpoint(folder))


def test_parts_that_do_not_belong_together_are_refused_by_name(tmp_path):
    config, tensors = saved(tmp_path, "gemma3")
    text, tower = config["text_config"], config["vision_config"]
    for changes, complaint in (
        ({"text_config": None}, "text_config is missing"),
        ({"text_config": {**text, "model_type": "llama"}}, "text_config.model_type is 'llama', which is not supported"),
        ({"text_config": {**text, "hidden_size": -1}}, "hidden_size -1"),
        ({"text_config": {**text, "num_key_value_heads": 3}}, "in text_config, num_key_value_heads is 3; expected"),
        ({"text_config": {**text, "quantization_config": {"bits": 4}}}, "quantised"),
        ({"vision_config": None}, "vision_config is missing"),
        ({"vision_config": {**tower, "model_type": "clip"}}, "vision_config.model_type is 'clip'; supported"),
        ({"vision_config": {**tower, "num_hidden_layers": 10**9}}, "vision_config.num_hidden_layers is 1000000000"),
        ({"vision_config": {**tower, "intermediate_size": 48}}, "vision_tower.encoder.layers.0.mlp.fc"),
        ({"vision_config": {**tower, "num_hidden_layers": 1}}, "vision_tower.encoder.layers.1"),
        ({"vision_config": {**tower, "num_hidden_layers": 3}}, "no tensor vision_tower.encoder.layers.2"),
        ({"architectures": ["Gemma3ForCausalLM"]}, "of gemma3 only Gemma3ForConditionalGeneration can be pruned"),
        ({"to_dict": 1}, "to_dict is not part of a gemma3 configuration"),
    ):
        assert complaint in refusal(tmp_path, {**config, **changes}, tensors), changes


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_part_that_is_missing_is_named_as_the_files_name_it(kind, tmp_path):
    config, tensors = saved(tmp_path, kind)
    row = open_checkpoint(tmp_path).architecture
    for path in row.wrapper.beside:
        names = {name for name in tensors if row.model_name(name).startswith(f"{path}.")}
        said = refusal(tmp_path, config, {name: tensors[name] for name in tensors.keys() - names})
        found = said.removeprefix("the checkpoint has no tensor ").removesuffix("; check that it is complete")
        assert any(name.startswith(f"{found}.") for name in names)  # what is one module there may be two here
        save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})


def test_parts_that_only_some_models_have_belong_to_the_configuration(tmp_path):
    config, tensors = saved(tmp_path, "gemma4")
    text, part = config["text_config"], config["audio_config"]
    without = {name: tensor for name, tensor in tensors.items() if "audio" not in name}
    for changes, complaint in (
        ({"audio_config": None}, "audio_tower"),
        ({"audio_config": {**part, "num_hidden_layers": 10**9}}, "audio_config.num_hidden_layers is 1000000000"),
        ({"audio_config": {**part, "num_hidden_layers": 2}}, "no tensor model.audio_tower.layers.1"),
        ({"text_config": {**text, "pad_token_id": None}}, "text_config.pad_token_id is None; expected an id"),
        (
            {"text_config": {**text, "num_kv_shared_layers": 1}},
            "this gemma4 model is not supported, because blocks run",
        ),
    ):
        assert complaint in refusal(tmp_path, {**config, **changes}, tensors), changes
    assert "no tensor model.audio_tower" in refusal(tmp_path, config, without)
    save_file(without, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps({**config, "audio_config": None}))
    save_byte_tokenizer(tmp_path, max_length=256)
    take(tmp_path)


def test_tensors_that_belong_to_nothing_or_are_there_twice_are_refused(tmp_path):
    config, tensors = saved(tmp_path, "qwen2_5_vl")
    one = "model.layers.0.mlp.up_proj.weight"
    twice = {**tensors, "model.language_model.layers.0.mlp.up_proj.weight": tensors[one].clone()}
    assert "are the same tensor of the model" in refusal(tmp_path, config, twice)
    assert refusal(tmp_path, config, {**tensors, "audio.x": torch.zeros(1)}).startswith("audio.x is a tensor that a")
    without = {name: tensor for name, tensor in tensors.items() if not name.startswith("visual")}
    assert "no tensor visual;" in refusal(tmp_path, config, without)
    sections = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 3]}
    text = {**config["text_config"], "rope_parameters": sections}
    said = refusal(tmp_path, {**config, "text_config": text}, tensors)
    assert "in text_config, rope_parameters.mrope_section is [2, 2, 3]; expected three numbers that add up to 8" in said
