"""Multimodal models: the text model is pruned in place, and everything else is copied."""

import json

import pytest
import torch
from safetensors.torch import save_file

from secateur_service.commands.demo.tokenizer import save_byte_tokenizer
from secateur_service.models.architectures import WRAPPERS
from secateur_service.models.belonging import check_model
from secateur_service.models.opening import open_checkpoint
from support.configurations.wrappers import CONFIGS
from support.inline import run_inline
from support.models import save_corpora, spec_data
from support.passes import streamed_losses
from support.reloading import loaded
from support.shrinking import DEPTH, HEADS, VOCABULARY, WIDTH, assert_reloads, data_of, run
from support.vocabularies import save_tokenizer
from support.wrappers import build_wrapper, load_wrapper, see, tensors_of


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    return save_corpora(tmp_path_factory.mktemp("corpora"))


def save_wrapper(folder, kind, **changes):
    model = build_wrapper(kind, **changes)
    model.save_pretrained(folder)
    save_byte_tokenizer(folder, max_length=256)
    return model


def losses_of(model, ids):
    with torch.no_grad():
        logits = model(input_ids=ids).logits[:, :-1].float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")


@pytest.mark.parametrize("kind", WRAPPERS)
def test_the_text_model_is_pruned_in_place_and_all_else_is_copied(kind, corpora, tmp_path):
    whole = save_wrapper(tmp_path / "model", kind)
    (tmp_path / "model" / "preprocessor_config.json").write_text('{"image_mean": [0.5]}')
    data = spec_data(tmp_path / "model", *corpora)
    data["evaluation"]["continuations"] = 1
    outcome, _ = run_inline(data, tmp_path / "out")
    assert outcome.result.sparsity == pytest.approx(0.5, abs=0.01)
    result = tmp_path / "out" / "checkpoint"

    # The output is a model of the same class, with the same files, settings and names.
    pruned = load_wrapper(result)
    assert type(pruned) is type(whole)
    config, published = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "model", result))
    assert {key: value for key, value in published.items() if key != "secateur"} == config
    assert (result / "preprocessor_config.json").read_text() == '{"image_mean": [0.5]}'

    # Exactly the matrices of the text model's blocks have changed.
    before, after = tensors_of(tmp_path / "model"), tensors_of(result)
    assert before.keys() == after.keys()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    dense = ("vision", "audio", ".router.", ".in_proj_a.", ".in_proj_b.")
    inside = [name for name in before if ".layers." in name and not any(part in name for part in dense)]
    blocks = [name for name in inside if before[name].dim() == 2 or ".experts." in name]
    assert changed == set(blocks)
    assert all((after[name] == 0).sum() == after[name].numel() // 2 for name in blocks)

    # Both models predict text as they do by themselves, and images can still be seen.
    ids = torch.randint(2, 250, (2, 48), generator=torch.Generator().manual_seed(0))
    for folder, model in ((tmp_path / "model", whole), (result, pruned)):
        torch.testing.assert_close(streamed_losses(folder, ids), losses_of(model, ids), rtol=1e-4, atol=1e-4)
    seen = see(pruned, kind)
    assert seen.shape == see(whole, kind).shape
    assert seen.isfinite().all()
    assert not torch.equal(seen, see(whole, kind))


def save_scene(folder, kind):
    """A model with a vocabulary of words, whose text model's settings stand at the top where that is possible.

    Returns:
        The token that images take the place of.
    """
    ids = save_tokenizer(folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][-1], "content": "[BREAK]", "id": len(ids)})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    special = {"bos_token_id": ids["<s>"], "eos_token_id": ids["</s>"], "pad_token_id": ids["<pad>"]}
    key = "image_token_id" if "image_token_id" in CONFIGS[kind] else "image_token_index"
    text = {"vocab_size": max(ids.values()) + 4, **special}
    build_wrapper(kind, text, **{key: ids["<unused0>"]}).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    if kind == "qwen2_5_vl":
        text = config.pop("text_config")
        config = {**text, **config}
    (folder / "config.json").write_text(json.dumps(config))
    return ids["<unused0>"]


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("gemma3", {**WIDTH, **HEADS, **DEPTH}),
        ("gemma4", {**WIDTH, **DEPTH}),
        ("llama4", {**HEADS, **DEPTH}),
        ("qwen2_5_vl", {**WIDTH, **DEPTH}),
        ("qwen3_vl", {**WIDTH, **HEADS}),
    ],
)
def test_a_smaller_text_model_still_sees_images(kind, parts, corpora, tmp_path):
    image = save_scene(tmp_path / "model", kind)
    report = run(data_of(tmp_path / "model", corpora, **VOCABULARY, **parts), tmp_path / "out").report
    result = tmp_path / "out" / "checkpoint"
    smaller, tokenizer = assert_reloads(tmp_path / "model", corpora, tmp_path / "out", report)
    old_ids = json.loads((result / "vocab_map.json").read_text())["old_ids"]
    new = old_ids.index(image)
    assert {"[BREAK]", "<unused0>"} <= tokenizer.get_vocab().keys()
    assert "<unused1>" not in tokenizer.get_vocab()
    assert smaller.config.image_token_id == new < report.vocabulary.rows == smaller.config.get_text_config().vocab_size
    assert smaller.config.get_text_config().intermediate_size == 48
    assert smaller.config.get_text_config().num_hidden_layers == 3 - ("blocks" in parts)
    assert ("text_config" in json.loads((result / "config.json").read_text())) == (kind != "qwen2_5_vl")
    dense, _ = loaded(tmp_path / "model")
    seen = see(smaller, kind, new)
    assert seen.shape == (*see(dense, kind, image).shape[:2], report.vocabulary.rows)
    assert seen.isfinite().all()
    before, after = tensors_of(tmp_path / "model"), tensors_of(result)
    beside = [name for name in before if "vis" in name or "projector" in name]
    assert beside
    assert all(torch.equal(before[name], after[name]) for name in beside)


@pytest.mark.parametrize("kind", WRAPPERS)
def test_checkpoints_with_the_names_of_the_module_tree_are_read_too(kind, tmp_path):
    whole = save_wrapper(tmp_path, kind)
    checkpoint = open_checkpoint(tmp_path)
    renamed = {checkpoint.architecture.model_name(name): tensor for name, tensor in tensors_of(tmp_path).items()}
    assert renamed.keys() == whole.state_dict().keys() - ({"lm_head.weight"} if checkpoint.is_tied else set())
    if kind in ("aya_vision", "gemma3", "llava"):  # towers of earlier releases had one more level
        own = "model.vision_tower."
        renamed = {name.replace(own, "vision_tower.vision_model."): tensor for name, tensor in renamed.items()}
    if kind == "gemma4_unified":  # as on the hub
        own, into = "model.embed_vision.", "model.vision_embedder."
        renamed = {name.replace(own, into): tensor for name, tensor in renamed.items()}
        renamed = {name.replace(f"{into}multimodal_embedder.", own): tensor for name, tensor in renamed.items()}
    save_file(renamed, tmp_path / "model.safetensors", {"format": "pt"})
    load_wrapper(tmp_path)
    check_model(open_checkpoint(tmp_path))
    ids = torch.randint(2, 250, (1, 32), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(streamed_losses(tmp_path, ids), losses_of(whole, ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["aya_vision", "gemma3", "gemma4", "gemma4_unified", "qwen3_vl"])
def test_a_whole_model_without_its_head_is_read_if_that_is_the_embedding(kind, tmp_path):
    whole = save_wrapper(tmp_path, kind)
    whole.base_model.save_pretrained(tmp_path)
    assert open_checkpoint(tmp_path).config["architectures"] == [type(whole.base_model).__name__]
    ids = torch.randint(2, 250, (1, 32), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(streamed_losses(tmp_path, ids), losses_of(whole, ids), rtol=1e-4, atol=1e-4)
