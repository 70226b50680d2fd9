import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from secateur_service.models.checkpoint import ModelRefusedError, open_checkpoint
from secateur_service.models.reference import ReferenceRefusedError, resolve_folder
from support.models import build_model


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


@pytest.mark.parametrize(
    ("uri", "complaint"),
    [
        ("http://169.254.169.254/latest", "unknown scheme"),
        ("/plain/path", "unknown scheme"),
        ("file://host/share", "no host"),
        ("file:relative", "not an absolute path"),
        ("file:///{root}/../secret", "outside"),
        ("file:///{root}/%2e%2e/secret", "outside"),
        ("file:///{root}/link", "outside"),
        ("file:///{root}/a%00b", "absolute"),
        ("file:///{root}/" + "x" * 300, "cannot be resolved|no such folder"),
        ("file:///{root}/absent", "no such folder"),
    ],
)
def test_references_out_of_the_roots_or_malformed_are_refused(tmp_path, uri, complaint):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").mkdir()
    (root / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ReferenceRefusedError, match=complaint):
        resolve_folder(uri.replace("{root}", str(root).lstrip("/")), [root])


def test_a_path_outside_the_roots_does_not_tell_whether_it_exists(tmp_path):
    (tmp_path / "there").mkdir()
    messages = []
    for name in ("there", "absent"):
        with pytest.raises(ReferenceRefusedError) as caught:
            resolve_folder((tmp_path / name).as_uri(), [tmp_path / "root"])
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
