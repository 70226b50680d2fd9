"""Which tensors a folder of weights has: those that transformers loads, and a word where vLLM would load others."""

import json
import re
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from secateur_service.models.checkpoint import ModelRefusedError
from secateur_service.models.files import INDEX, SINGLE
from secateur_service.models.opening import open_checkpoint
from support.models import build_model

# Different in every tensor, so that a mix-up shows.
MODEL = build_model("llama", hidden_size=16, intermediate_size=16, num_hidden_layers=2, head_dim=4)
TENSORS = {name: tensor.clone() for name, tensor in MODEL.state_dict().items()}
NAMES = sorted(TENSORS)
FILES = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "a.safetensors"]


def transformers_loads(folder):
    model, found = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not found["missing_keys"]
    return dict(model.state_dict())


def ours(folder):
    """The tensors by name as we read them, and what was said."""
    checkpoint = open_checkpoint(folder)
    contents = {info.path: load_file(info.path) for info in checkpoint.tensors.values()}
    return {name: contents[info.path][name] for name, info in checkpoint.tensors.items()}, checkpoint.notes


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def write(folder, placed, index):
    for file in {file for files in placed.values() for file in files}:
        inside = {
            name: TENSORS[name] + number
            for name, files in placed.items()
            for number, chosen in enumerate(files)
            if chosen == file
        }
        save_file(inside, folder / file, {"format": "pt"})
    if index is not None:
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))


@st.composite
def divisions(draw):
    """Where each tensor lies, and what the index says: mostly right, with a second copy, a lack or a wrong name."""
    placed = {name: [draw(st.sampled_from(FILES))] for name in NAMES}
    index = {name: files[0] for name, files in placed.items()}
    flaw = draw(st.sampled_from(["none", "copy", "lack", "wrong", "absent", "stray file", "single"]))
    name = draw(st.sampled_from(NAMES))
    used = sorted({files[0] for files in placed.values()})
    if flaw == "copy":
        placed[name].append(draw(st.sampled_from([file for file in FILES if file != placed[name][0]])))
    elif flaw == "lack":
        del index[name]
    elif flaw == "wrong":
        index[name] = draw(st.sampled_from(used))
    elif flaw == "absent":
        del placed[name]
    elif flaw == "stray file":
        placed[name].append("stray.safetensors")
    elif flaw == "single":
        placed[name].append(SINGLE)
    return placed, index


@settings(max_examples=120, deadline=None)
@given(divisions())
def test_an_index_and_its_files_give_what_transformers_loads_or_are_refused_by_name(tmp_path_factory, division):
    placed, index = division
    folder = tmp_path_factory.mktemp("model")
    MODEL.config.save_pretrained(folder)
    write(folder, placed, index)
    named = set(index.values())
    copies = Counter(name for name, files in placed.items() for file in files if file in named)
    twice = [name for name, count in copies.items() if count > 1]
    missing = sorted(set(NAMES) - set(copies))
    if twice or missing or (folder / SINGLE).exists():
        named_ones = "|".join(re.escape(word) for word in (*twice, *missing, SINGLE))
        with pytest.raises(ModelRefusedError, match=named_ones):
            open_checkpoint(folder)
        return
    found, notes = ours(folder)
    assert same(found, transformers_loads(folder))
    flawless = index == {name: file for name, files in placed.items() for file in files if file in named}
    assert bool(notes) != flawless
    assert all(INDEX in note for note in notes)


def model(folder):
    MODEL.config.save_pretrained(folder)
    save_file(TENSORS, folder / SINGLE, {"format": "pt"})
    return folder


@pytest.mark.parametrize("other", ["model.fp16.safetensors", "copy.safetensors", "zzz.safetensors"])
@pytest.mark.parametrize("shares", [True, False])
def test_without_an_index_other_files_of_weights_are_left_out_and_named(tmp_path, other, shares):
    folder = model(tmp_path)
    save_file({NAMES[0] if shares else "vision.weight": torch.ones(2)}, folder / other)
    found, [note] = ours(folder)
    assert same(found, transformers_loads(folder))
    assert note.startswith(f"{other} is left out")
    assert (NAMES[0] in note) == shares


@pytest.mark.parametrize(
    "other", ["consolidated.safetensors", "consolidated-00001-of-00002.safetensors", "adapter_model.safetensors"]
)
def test_the_same_weights_in_other_forms_are_left_out_in_silence(tmp_path, other):
    folder = model(tmp_path)
    save_file({name: tensor + 1 for name, tensor in TENSORS.items()}, folder / other)
    found, notes = ours(folder)
    assert same(found, TENSORS)
    assert not notes


def test_an_adapter_that_transformers_would_add_is_refused(tmp_path):
    folder = model(tmp_path)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelRefusedError, match=r"adapter_config\.json is there.*merge"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "second"),
    [
        ("llama", "norm.weight"),
        ("llama", "layers.1.mlp.up_proj.weight"),
        ("gpt_neox", "embed_out.weight"),
        ("mixtral", "model.layers.0.mlp.gate.weight"),
    ],
)
def test_a_tensor_under_two_names_is_refused_with_both(name, second, tmp_path):
    build_model(name).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / SINGLE)
    if second not in tensors:
        first = {"embed_out.weight": "lm_head.weight"}.get(second) or next(
            key for key in tensors if key.endswith(second.rpartition("mlp.")[2]) or key == f"model.{second}"
        )
        save_file({**tensors, second: tensors[first if first in tensors else second] + 1}, tmp_path / SINGLE)
    else:
        save_file({**tensors, "lm_head.weight": tensors[second] + 1}, tmp_path / SINGLE)
    with pytest.raises(ModelRefusedError, match="are the same tensor of the model"):
        open_checkpoint(tmp_path)
