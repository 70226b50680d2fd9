"""Names and shapes told from a configuration are those of the model that transformers builds with it."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from secateur_service.models.architectures import ARCHITECTURES
from secateur_service.models.building import replace_transposed
from secateur_service.models.experts import replace_experts
from secateur_service.models.shapes import expected_shapes
from support.configurations import marked
from support.models import CONFIGS, config_of

# What changes names or shapes, in every architecture that has it.
CHOICES = {
    "vocab_size": [31, 260],
    "hidden_size": [32, 64],
    "intermediate_size": [48, 96],
    "moe_intermediate_size": [24, 48],
    "ffn_dim": [48, 96],
    "n_inner": [48, 96, None],
    "n_embd": [32, 64],
    "d_model": [32, 64],
    "use_bias": [True, False],
    "use_qkv_bias": [True, False],
    "qk_layernorm": [True, False],
    "use_parallel_residual": [True, False],
    "attention_out_bias": [True, False],
    "n_positions": [64, 256],
    "ffn_hidden_size": [48, 96],
    "num_hidden_layers": [3],
    "num_attention_heads": [4, 8],
    "num_key_value_heads": [1, 2, 4],
    "num_kv_heads": [1, 2, 4],
    "head_dim": [4, 16],
    "attention_bias": [True, False],
    "mlp_bias": [True, False],
    "use_qk_norm": [True, False],
    "bias": [True, False],
    "enable_bias": [True, False],
    "layer_norm_elementwise_affine": [True, False],
    "do_layer_norm_before": [True, False],
    "_remove_final_layer_norm": [True, False],
    "word_embed_proj_dim": [32, 64],
    "max_position_embeddings": [64, 256],
    "new_decoder_architecture": [True, False],
    "num_ln_in_parallel_attn": [1, 2, None],
    "multi_query": [True, False],
    "parallel_attn": [True, False],
    "num_local_experts": [2, 3],
    "num_experts": [2, 3],
    "decoder_sparse_step": [1, 2],
    "mlp_only_layers": [[], [0, 2], None],
    "tie_word_embeddings": [True, False],
}


def built(config, model_type):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    architecture = ARCHITECTURES[model_type]
    if architecture.mixture:
        replace_experts(model.get_submodule(architecture.blocks), architecture.mixture)
    replace_transposed(model)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    renamed = {name.replace("embed_out.", "lm_head."): shape for name, shape in shapes.items()}
    if not config.tie_word_embeddings:
        return renamed
    return {name: shape for name, shape in renamed.items() if name != "lm_head.weight"}


@pytest.mark.parametrize("name", marked(CONFIGS))
@given(data=st.data())
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_table_has_the_parameters_of_the_model_that_transformers_builds(name, data):
    model_type = name.partition(" ")[0]
    given_config = config_of(name)
    fields = AutoConfig.for_model(model_type).to_dict()
    for key, values in CHOICES.items():
        if key in fields and data.draw(st.booleans(), label=key):
            given_config[key] = data.draw(st.sampled_from(values), label=key)
    if "longrope" in str(given_config.get("rope_parameters")):
        given_config.pop("rope_parameters")
    if given_config.get("new_decoder_architecture"):
        given_config["parallel_attn"] = True
    if model_type == "internlm3":
        given_config["mlp_bias"] = given_config["attention_bias"]
    config = AutoConfig.for_model(model_type, **given_config)
    assert expected_shapes(config, ARCHITECTURES[model_type]) == built(config, model_type)


def test_what_an_activation_has_learnt_is_there_with_that_activation_only():
    for activation, count in (("xielu", 4), ("relu2", 0)):
        config = AutoConfig.for_model("apertus", **{**config_of("apertus"), "hidden_act": activation})
        found = expected_shapes(config, ARCHITECTURES["apertus"])
        assert found == built(config, "apertus")
        assert sum(".layers.0.mlp.act_fn." in name for name in found) == count


def test_every_architecture_is_in_the_table():
    assert {name.partition(" ")[0] for name in CONFIGS} == set(ARCHITECTURES)
    for model_type in ARCHITECTURES:
        row = ARCHITECTURES[model_type]
        needed = config_of(model_type)
        if not row.excepted:  # otherwise the defaults may be those of what cannot be pruned
            needed = {key: needed[key] for key in row.required}
        config = AutoConfig.for_model(model_type, **needed)
        config.num_hidden_layers = 2
        for key in ARCHITECTURES[model_type].per_block:
            if isinstance(getattr(config, key, None), list):
                setattr(config, key, getattr(config, key)[:2])
        assert expected_shapes(config, ARCHITECTURES[model_type]) == built(config, model_type)
