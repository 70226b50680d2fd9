"""Models that were saved without their head, and text models of larger ones."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText

from secateur_service.commands.demo.tokenizer import save_byte_tokenizer
from secateur_service.models.architectures import ARCHITECTURES
from secateur_service.models.checkpoint import ModelRefusedError
from secateur_service.models.opening import open_checkpoint
from support.configurations import marked
from support.inline import run_inline
from support.models import build_model, config_of, save_corpora, spec_data
from support.passes import streamed_losses

SPECIFICATION = (Path(__file__).parents[2] / "docs" / "specification.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    return save_corpora(tmp_path_factory.mktemp("corpora"))


def save_base(folder, name, *, tied):
    """The model without its head, as transformers saves it, and the whole one."""
    model = build_model(name, tie_word_embeddings=tied)
    model.base_model.save_pretrained(folder)
    save_byte_tokenizer(folder, max_length=256)
    return model


def tensors_of(folder):
    """Type, shape and bytes of every tensor in a folder."""
    found = {}
    for path in folder.glob("*.safetensors"):
        found |= {
            name: (str(tensor.dtype), tensor.shape, tensor.view(torch.uint8).numpy().tobytes())
            if tensor.dim()
            else (str(tensor.dtype), (), tensor.item())
            for name, tensor in load_file(path).items()
        }
    return found


def pruned_places(checkpoint):
    """Where the pruned layers of a model are."""
    return [
        checkpoint.place_of(f"{checkpoint.block_path(index)}.{name}.weight") for index, name in checkpoint.linears()
    ]


WITH_BASE = [name for name, row in ARCHITECTURES.items() if row.loads_base]
TIED = [name for name in WITH_BASE if not ARCHITECTURES[name].head_bias and not ARCHITECTURES[name].never_tied]


@pytest.mark.parametrize("name", marked(TIED))
def test_a_model_without_its_head_is_pruned_and_stays_what_it_was(name, corpora, tmp_path):
    whole = save_base(tmp_path / "model", name, tied=True)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["architectures"] == [ARCHITECTURES[name].base_class] == [type(whole.base_model).__name__]
    outcome, _ = run_inline(spec_data(tmp_path / "model", *corpora), tmp_path / "out")
    assert outcome.result.sparsity == pytest.approx(0.5, abs=0.01)
    result = tmp_path / "out" / "checkpoint"
    published = json.loads((result / "config.json").read_text())
    assert published["architectures"] == config["architectures"]
    for loader, kind in ((AutoModel, type(whole.base_model)), (AutoModelForCausalLM, type(whole))):
        loaded, found = loader.from_pretrained(result, output_loading_info=True)
        assert type(loaded) is kind
        assert not found["missing_keys"]
        assert not found["unexpected_keys"]
    before, after = tensors_of(tmp_path / "model"), tensors_of(result)
    assert before.keys() == after.keys()
    pruned = {place.stored.name for place in pruned_places(open_checkpoint(result))}
    assert all((before[key] == after[key]) == (key not in pruned) for key in before)
    ids = torch.randint(2, 250, (2, 48), generator=torch.Generator().manual_seed(0))
    for folder in (tmp_path / "model", result):
        plain = AutoModelForCausalLM.from_pretrained(folder).eval()
        with torch.no_grad():
            logits = plain(ids).logits[:, :-1].float()
        expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        torch.testing.assert_close(streamed_losses(folder, ids), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", marked(WITH_BASE))
def test_without_a_tied_head_or_the_bias_of_one_it_is_refused_with_the_class_to_save(name, tmp_path):
    row = ARCHITECTURES[name]
    save_base(tmp_path, name, tied=bool(row.head_bias))
    with pytest.raises(ModelRefusedError, match=rf"{row.base_class}, which has no head.*save the {row.class_name}"):
        open_checkpoint(tmp_path)


def test_what_no_class_with_a_head_loads_is_refused(tmp_path):
    """transformers finds none of Llama 4's tensors in it, and leaves the model at random weights."""
    build_model("llama4_text", tie_word_embeddings=True).model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for classes, told in (
        (["Llama4TextModel"], "only Llama4ForCausalLM can be pruned"),
        ([], "layers.0.* is a matrix that"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": classes}))
        with pytest.raises(ModelRefusedError, match=told):
            open_checkpoint(tmp_path)


TINY = {**config_of("llama"), "num_hidden_layers": 2}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
WRAPPERS = {
    "gemma3": ("gemma3_text", VISION),
    "llava": ("llama", {**VISION, "model_type": "clip_vision_model"}),
    "mistral3": ("mistral", {**VISION, "model_type": "pixtral", "head_dim": 8}),
}


def save_wrapper(folder, kind):
    text, vision = WRAPPERS[kind]
    options = {**TINY, "tie_word_embeddings": text == "gemma3_text", "rope_parameters": None}
    inner = AutoConfig.for_model(text, **options)
    config = AutoConfig.for_model(kind, text_config=inner.to_dict(), vision_config=vision)
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    return text


@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_text_model_saved_by_itself_as_documented_is_pruned(kind, corpora, tmp_path, monkeypatch):
    save_wrapper(tmp_path / "whole", kind)
    section = SPECIFICATION.split("### Multimodal models")[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    save_byte_tokenizer(tmp_path / "text", max_length=256)
    run_inline(spec_data(tmp_path / "text", *corpora), tmp_path / "out")
    whole = AutoModelForImageTextToText.from_pretrained("whole").eval()
    ids = torch.randint(2, 250, (1, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = whole(input_ids=ids).logits[:, :-1].float()
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    torch.testing.assert_close(streamed_losses(tmp_path / "text", ids), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_whole_models_tensors_under_the_configuration_of_its_text_model_are_refused(kind, tmp_path):
    """transformers loads none of them, and leaves the model at random weights."""
    text = save_wrapper(tmp_path, kind)
    AutoConfig.for_model(text, **TINY, architectures=[ARCHITECTURES[text].class_name]).save_pretrained(tmp_path)
    with pytest.raises(ModelRefusedError, match=r"the checkpoint has no tensor layers\.0"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "bloom", "gpt_neox"])
@pytest.mark.parametrize("prefix", ["language_model.", "model.language_model.", "base_model.model.", "module."])
def test_tensors_that_no_model_of_the_configuration_loads_are_refused(name, prefix, tmp_path):
    build_model(name).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({prefix + key: tensor for key, tensor in tensors.items()}, tmp_path / "model.safetensors")
    with pytest.raises(ModelRefusedError, match="the checkpoint has no tensor"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["gemma3_text", "qwen2", "falcon", "opt"])
def test_a_head_that_differs_from_a_tied_embedding_ends_the_job_before_anything_is_pruned(name, corpora, tmp_path):
    model = build_model(name, tie_word_embeddings=True)
    model.save_pretrained(tmp_path / "model")
    save_byte_tokenizer(tmp_path / "model", max_length=256)
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    embedding = model.get_input_embeddings().weight.detach()
    save_file({**tensors, "lm_head.weight": embedding.clone()}, path, {"format": "pt"})
    run_inline(spec_data(tmp_path / "model", *corpora), tmp_path / "same")
    save_file({**tensors, "lm_head.weight": embedding.roll(1, 0)}, path, {"format": "pt"})
    with pytest.raises(Exception, match=r"lm_head\.weight differs from .*transformers would use both, vLLM"):
        run_inline(spec_data(tmp_path / "model", *corpora), tmp_path / "other")
    assert not list((tmp_path / "other").rglob("*.safetensors"))
    shutil.rmtree(tmp_path / "other")
    # The remedies that the message names.
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    run_inline(spec_data(tmp_path / "model", *corpora), tmp_path / "other")


def test_every_base_class_is_one_of_transformers():
    assert all(hasattr(transformers, row.base_class) for row in ARCHITECTURES.values())
