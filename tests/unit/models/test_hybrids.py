"""Models that mix attention with layers that carry a state: names that checkpoints have, and which blocks may go."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from secateur_service.models.architectures import ARCHITECTURES
from secateur_service.models.building import assemble
from secateur_service.models.checkpoint import ModelRefusedError
from secateur_service.models.configuration import read_configuration
from secateur_service.models.depth import removable, without_blocks
from secateur_service.models.opening import open_checkpoint
from secateur_service.models.units import attending_blocks
from secateur_service.sizing.serving import cache_bytes
from support.models import CONFIGS, build_model, config_of

HYBRIDS = [name for name in CONFIGS if ARCHITECTURES[name.partition(" ")[0]].is_recurrent]
CPU = torch.device("cpu")


def change(folder, *, rename=lambda name: name, config=None, beside=()):
    """Rewrite a checkpoint with other names, with other settings, and with further tensors."""
    tensors = {rename(name): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors |= {name: torch.ones(2, 2) for name in beside}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    found = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**found, **(config or {})}))


def pieces(checkpoint):
    tensors = load_file(checkpoint.folder / "model.safetensors")
    return [(name, 0, tensors[name]) for name in checkpoint.tensors]


@pytest.mark.parametrize("name", HYBRIDS)
def test_a_model_put_together_computes_and_writes_on_as_transformers_does(name, tmp_path):
    model = build_model(name)
    model.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    ours = assemble(checkpoint, CPU, torch.float32, pieces(checkpoint))
    tokens = torch.randint(2, 250, (2, 24), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[0, :9] = 0  # what is padded on the left leaves nothing in the state
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens).logits, model(tokens).logits, rtol=1e-4, atol=1e-4)
        options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
        both = ours.generate(tokens, attention_mask=mask, **options)
        alone = model.generate(tokens[:1, 9:], **options)
        padded = model.generate(tokens, attention_mask=mask, **options)
    assert torch.equal(both, padded)
    if not getattr(model.config, "mamba_proj_bias", False):  # transformers convolves it in place of padding
        assert torch.equal(both[0, 24:], alone[0, 15:])


@pytest.mark.parametrize(
    ("name", "prefix", "published", "beside"),
    [
        ("qwen3_5_text", "model.", "model.language_model.", ("mtp.fc.weight", "model.visual.patch_embed.proj.weight")),
        ("nemotron_h", "backbone.", "model.", ("mtp.layers.0.norm.weight",)),
        ("qwen3_next", "model.", "model.", ("mtp.fc.weight",)),
    ],
)
def test_names_of_published_checkpoints_are_read_and_what_transformers_does_not_read_is_left_out_and_told(
    name, prefix, published, beside, tmp_path
):
    build_model(name).save_pretrained(tmp_path)
    written = open_checkpoint(tmp_path)
    assert not written.notes
    change(tmp_path, rename=lambda key: key.replace(prefix, published, 1), beside=beside)
    found = open_checkpoint(tmp_path)
    assert [found.inputs(index) for index in range(3)] == [written.inputs(index) for index in range(3)]
    assert len(found.tensors) == len(written.tensors)
    assert any(key.startswith(published) for key in found.tensors)
    assert f"{len(beside)} tensors that transformers does not read are left out, such as" in found.notes[0]


def test_a_pattern_with_a_letter_for_each_block_loses_those_of_removed_blocks(tmp_path):
    build_model("nemotron_h").save_pretrained(tmp_path)
    listed = open_checkpoint(tmp_path)
    shorter = without_blocks(listed, listed.config, [1, 2])
    assert shorter["layers_block_type"] == ["full_attention", "moe"]
    assert "num_hidden_layers" not in shorter
    change(tmp_path, config={"hybrid_override_pattern": "M*E", "num_hidden_layers": 3})
    config = json.loads((tmp_path / "config.json").read_text())
    del config["layers_block_type"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    spelled = open_checkpoint(tmp_path)
    assert [spelled.inputs(index) for index in range(3)] == [listed.inputs(index) for index in range(3)]
    shorter = without_blocks(spelled, spelled.config, [1, 2])
    assert (shorter["hybrid_override_pattern"], shorter["num_hidden_layers"]) == ("*E", 2)
    assert "layers_block_type" not in shorter  # older loaders refuse both together


@pytest.mark.parametrize("name", ["lfm2", "lfm2 biased", "falcon_h1", "nemotron_h"])
def test_the_last_block_with_attention_stays_and_only_those_with_attention_keep_keys_and_values(name, tmp_path):
    build_model(name).save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    attending = {"lfm2": (1,), "lfm2 biased": (0, 2), "falcon_h1": (0, 1, 2), "nemotron_h": (1,)}[name]
    assert attending_blocks(checkpoint) == attending
    assert cache_bytes(checkpoint) == len(attending) * 2 * 2 * 16 * 4  # of 2 heads, 16 wide, in float32
    assert removable(checkpoint, [0, 1, 2]) == [index for index in range(3) if attending != (index,)]
    if name == "lfm2 biased":
        assert removable(checkpoint, [1, 2]) == [1]


@pytest.mark.parametrize(
    ("name", "changes", "complaint"),
    [
        ("lfm2", {"layer_types": ["conv"] * 3}, "layer_types is .*; expected attention in some block"),
        ("qwen3_5_text", {"linear_num_value_heads": 3}, "value_heads is 3; expected a multiple of linear_num_key"),
        ("granitemoehybrid", {"mamba_n_groups": 3}, "mamba_n_heads is 4; expected a multiple of mamba_n_groups, 3"),
        ("granitemoehybrid", {"time_step_limit": [1.0, 0.0]}, "time_step_limit is .*; expected two numbers"),
        ("falcon_h1", {"ssm_multipliers": [1.0] * 4}, "ssm_multipliers is .*; expected 5 numbers"),
        ("nemotron_h", {"tie_word_embeddings": True}, "tie_word_embeddings is True; expected false"),
        ("nemotron_h", {"mlp_hidden_act": "xielu"}, "mlp_hidden_act is 'xielu'; expected one of"),
        ("qwen3_next", {"num_experts": 0}, "num_experts is 0; expected a whole number from 1"),
    ],
)
def test_what_would_fail_in_the_middle_of_a_model_is_refused_with_the_key(name, changes, complaint):
    with pytest.raises(ModelRefusedError, match=complaint):
        read_configuration({"model_type": name, **config_of(name), **changes}, name)


@pytest.mark.parametrize("limit", [math.inf, {"__float__": "Infinity"}])
def test_a_time_step_without_a_largest_value_is_read_in_both_spellings(limit):
    config = {"model_type": "nemotron_h", **config_of("nemotron_h"), "time_step_limit": [0.0, limit]}
    assert list(read_configuration(config, "nemotron_h").time_step_limit) == [0.0, math.inf]
