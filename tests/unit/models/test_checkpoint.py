import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from secateur_service.models.belonging import check_model
from secateur_service.models.checkpoint import ModelRefusedError, open_checkpoint
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
        ({"model_type": "mamba"}, "not supported; supported are llama"),
        ({"model_type": ["llama"]}, "not supported"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "never run"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
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
