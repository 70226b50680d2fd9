import json
import re

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from secateur_service.models.belonging import check_model, check_tensors
from secateur_service.models.checkpoint import ModelRefusedError
from secateur_service.models.configuration import read_configuration
from secateur_service.models.opening import open_checkpoint
from secateur_service.models.shapes import expected_shapes
from support.models import build_model, save_model


@pytest.fixture
def folder(tmp_path):
    build_model("llama").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def test_blocks_and_the_rest_are_told_apart(folder):
    checkpoint = open_checkpoint(folder)
    assert checkpoint.num_blocks == 3
    assert len(checkpoint.block_tensors(1)) == 9
    assert [info.name for info in checkpoint.other_tensors()] == [
        "lm_head.weight",
        "model.embed_tokens.weight",
        "model.norm.weight",
    ]
    assert len(list(checkpoint.linear_weights())) == 21
    assert checkpoint.parameters == sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model_type": "mamba"}, r"not supported; .*`secateur info --architecture mamba` says"),
        ({"model_type": ["llama"]}, "model_type is"),
        ({"model_type": ""}, "has no model_type"),
        ({"model_type": None}, "has no model_type"),
        ({"model_type": "x" * 101}, "model_type is 'x{80}'; expected"),
        ({"model_type": "ll\nama"}, "model_type is"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "never run"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, r"in MXFP4.*Mxfp4Config\(dequantize=True\)"),
        ({"auto_map": {"AutoModelForCausalLM": "evil.Model"}}, "never run"),
        ({"auto_map": "LlamaForCausalLM"}, "never run"),
        ({"model_type": "internvl", "text_config": {"model_type": "qwen2"}}, "by itself, as qwen2"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "only LlamaForCausalLM"),
        ({"num_hidden_layers": None}, "how many blocks"),
        ({"num_hidden_layers": 2}, "does not know"),
        ({"num_hidden_layers": 4}, "no tensor model.layers.3"),
    ],
)
def test_configurations_that_cannot_be_pruned_are_refused_with_the_reason(folder, changes, complaint):
    edit_config(folder, **changes)
    with pytest.raises(ModelRefusedError, match=complaint):
        open_checkpoint(folder)


def test_code_that_transformers_has_adopted_is_replaced_by_its_class(folder):
    edit_config(folder, auto_map={"AutoModelForCausalLM": "modeling_llama.LlamaForCausalLM"})
    assert open_checkpoint(folder).num_blocks == 3


def test_a_class_that_transformers_has_under_another_name_is_told_by_the_one_it_was_published_with(tmp_path):
    build_model("internlm3").save_pretrained(tmp_path)
    code = {"AutoModelForCausalLM": "modeling_internlm3.InternLM3ForCausalLM"}
    edit_config(tmp_path, architectures=["InternLM3ForCausalLM"], auto_map=code)
    assert open_checkpoint(tmp_path).num_blocks == 3
    edit_config(tmp_path, auto_map={"AutoModelForCausalLM": "modeling_internlm3.Other"})
    with pytest.raises(ModelRefusedError, match="never run"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mixtral", {"num_local_experts": None}),
        ("mixtral", {"num_local_experts": 0}),
        ("mixtral", {"num_local_experts": 10**9}),
        ("mixtral", {"num_local_experts": 5}),
        ("mixtral", {"num_local_experts": 3}),
        ("qwen3_moe", {"num_local_experts": "4"}),
        ("qwen3_moe", {"decoder_sparse_step": 0}),
        ("qwen3_moe", {"decoder_sparse_step": 2}),
        ("qwen3_moe", {"mlp_only_layers": 1}),
        ("qwen3_moe", {"mlp_only_layers": []}),
    ],
)
def test_mixtures_of_experts_that_contradict_their_configuration_are_refused(name, changes, tmp_path):
    save_model(tmp_path, name)
    check_model(open_checkpoint(tmp_path))
    edit_config(tmp_path, **changes)
    with pytest.raises(ModelRefusedError, match=next(iter(changes)) + r"|no tensor|asks for|model does not have"):
        check_model(open_checkpoint(tmp_path))


def test_the_number_of_experts_may_stand_under_either_of_its_names(tmp_path):
    build_model("qwen3_moe").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["num_experts"] = config.pop("num_local_experts")
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint = open_checkpoint(tmp_path)
    assert [len(checkpoint.inputs(index)) for index in range(3)] == [2 + 2 * 4, 4, 2 + 2 * 4]
    experts = [checkpoint.expert_of(group[0]) for group in checkpoint.inputs(0)]
    assert experts == [None, None, 0, 0, 1, 1, 2, 2, 3, 3]


def test_a_checkpoint_without_a_head_is_refused_unless_it_is_tied(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["lm_head.weight"]
    save_file(tensors, path)
    with pytest.raises(ModelRefusedError, match=r"no tensor lm_head\.weight"):
        open_checkpoint(folder)
    edit_config(folder, tie_word_embeddings=True)
    assert open_checkpoint(folder).head_name == "model.embed_tokens.weight"


def test_a_matrix_that_nobody_claimed_refuses_the_model(folder):
    path = folder / "model.safetensors"
    save_file({**load_file(path), "model.layers.0.adapter.weight": torch.ones(2, 2)}, path)
    with pytest.raises(ModelRefusedError, match=r"adapter\.weight is a matrix"):
        open_checkpoint(folder)


def test_a_folder_without_safetensors_is_refused_and_nothing_else_is_opened(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelRefusedError, match="no safetensors checkpoint"):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "absent.safetensors"])
def test_an_index_that_names_files_elsewhere_is_refused(folder, name):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    with pytest.raises(ModelRefusedError, match="not a file of the folder"):
        open_checkpoint(folder)


def test_blocks_that_predict_further_tokens_are_left_out_and_told(tmp_path):
    build_model("deepseek_v3").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    ahead = {f"model.layers.3.{name}.weight": torch.zeros(64, 64) for name in ("eh_proj", "self_attn.o_proj")}
    save_file({**tensors, **ahead}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    edit_config(tmp_path, num_nextn_predict_layers=1)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.tensors.keys() == tensors.keys()
    assert any("2 tensors that transformers does not read are left out" in note for note in checkpoint.notes)
    edit_config(tmp_path, num_nextn_predict_layers=0)
    with pytest.raises(ModelRefusedError, match="does not know"):
        open_checkpoint(tmp_path)


def test_the_way_that_a_refusal_names_to_save_a_model_in_mxfp4_works(tmp_path):
    stored, folder = tmp_path / "stored", tmp_path / "saved"
    build_model("gpt_oss", dtype=torch.bfloat16).save_pretrained(stored)
    tensors = load_file(stored / "model.safetensors")
    for name in [name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        count, inputs, outputs = tensors.pop(name).shape
        tensors[f"{name}_blocks"] = torch.randint(255, (count, outputs, inputs // 32, 16), dtype=torch.uint8)
        tensors[f"{name}_scales"] = torch.full((count, outputs, inputs // 32), 124, dtype=torch.uint8)
    save_file(tensors, stored / "model.safetensors", metadata={"format": "pt"})
    edit_config(stored, quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]})
    with pytest.raises(ModelRefusedError, match="in MXFP4") as caught:
        open_checkpoint(stored)
    (code,) = re.findall(r"AutoModelForCausalLM.*?save_original_format=False\)", str(caught.value))
    names = {name: getattr(transformers, name) for name in ("AutoModelForCausalLM", "Mxfp4Config")}
    names |= {"torch": torch, "PATH": stored, "FOLDER": folder}
    exec(code, names)
    checkpoint = open_checkpoint(folder)
    config = read_configuration(checkpoint.config, "gpt_oss")
    check_tensors(checkpoint, expected_shapes(config, checkpoint.architecture))
    # Without the last argument the tensors keep the names of what they no longer are.
    exec(code.replace(", save_original_format=False", ""), names)
    with pytest.raises(ModelRefusedError, match="or named so; save the model"):
        open_checkpoint(folder)
