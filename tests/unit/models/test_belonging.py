"""Weights that do not belong to their configuration are found from headers alone, as the model would find them."""

import dataclasses
import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from secateur_service.models.belonging import check_model, check_tensors
from secateur_service.models.checkpoint import ModelRefusedError
from secateur_service.models.configuration import text_configuration
from secateur_service.models.opening import open_checkpoint
from secateur_service.models.shapes import expected_shapes
from secateur_service.models.streaming import StreamedModel
from support.configurations import marked
from support.models import CONFIGS, save_model


@pytest.fixture(scope="module", params=marked(CONFIGS))
def whole(request, tmp_path_factory):
    folder = save_model(tmp_path_factory.mktemp("whole"), request.param)
    tensors = load_file(folder / "model.safetensors")
    return folder, tensors, (folder / "config.json").read_text()


def refusal(check):
    try:
        check()
    except ModelRefusedError as error:
        return str(error)
    return None


@given(data=st.data())
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_the_worker_would_refuse_is_refused_from_the_headers_in_the_same_words(whole, data):
    folder, tensors, config = whole
    (folder / "config.json").write_text(config)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    checkpoint = open_checkpoint(folder)
    check_model(checkpoint)
    changed = dict(tensors)
    name = data.draw(st.sampled_from(sorted(tensors)), label="tensor")
    how = data.draw(st.sampled_from(["gone", "wider", "another", "transposed"]), label="how")
    if how == "gone":
        del changed[name]
    elif how == "wider":
        *rows, columns = changed[name].shape or (1,)
        changed[name] = torch.zeros(*rows, columns + 1)
    elif how == "another":
        changed[name + "x"] = torch.zeros(3)
    else:
        changed[name] = changed[name].reshape(-1, 1) if changed[name].dim() < 2 else changed[name].T.contiguous()
    save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
    said = refusal(lambda: check_model(open_checkpoint(folder)))
    worker = refusal(lambda: StreamedModel(open_checkpoint(folder), torch.device("cpu"), torch.float32))
    assert said == worker
    same = how in ("gone", "transposed") and (name == "lm_head.weight" or changed.get(name) is not None)
    assert said is not None or same, "only a square matrix may be turned, and a tied head be left out"


def test_a_configuration_of_a_larger_model_beside_the_weights_is_refused(tmp_path):
    folder = save_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_key_value_heads": 4}))
    with pytest.raises(ModelRefusedError, match=r"k_proj\.weight has shape \[32, 64\], config\.json asks for"):
        check_model(open_checkpoint(folder))


def test_a_part_of_a_model_of_several_parts_is_refused_from_the_headers(tmp_path):
    folder = save_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    for key in ("text_config", "decoder", "text_encoder", "generator"):
        for value in (5, "x", [], {}, {"hidden_size": 8}):
            (folder / "config.json").write_text(json.dumps({**config, key: value}))
            said = refusal(lambda: check_model(open_checkpoint(folder)))
            assert said == f"config.json: {key} is not part of a llama configuration; remove it"


def test_a_tokenizer_that_puts_tokens_around_a_text_which_it_does_not_have_is_refused(tmp_path):
    folder = save_model(tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    pair = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "[nobody]", "type_id": 0}}, pair[0]],
        "pair": pair,
        "special_tokens": {},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "tokenizer" in refusal(lambda: check_model(open_checkpoint(folder)))


@pytest.mark.parametrize(
    "name", ["llama", "gpt2", "mixtral", "qwen3_moe", "gpt_oss", "llama4_text", "nemotron_h", "granitemoehybrid"]
)
def test_a_missing_tensor_is_told_by_the_name_that_it_has_in_the_file(name, tmp_path):
    save_model(tmp_path, name)
    whole = open_checkpoint(tmp_path)
    shapes = expected_shapes(text_configuration(whole), whole.architecture)
    for missing in whole.tensors.keys() - {whole.embedding_name}:
        left = {each: info for each, info in whole.tensors.items() if each != missing}
        said = refusal(lambda left=left: check_tensors(dataclasses.replace(whole, tensors=left), shapes))
        assert said == f"the checkpoint has no tensor {missing}; check that it is complete"
