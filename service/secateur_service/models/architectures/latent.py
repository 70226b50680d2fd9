"""Mixtures of experts with latent attention: queries, and keys with values, come from projections of low rank."""

from __future__ import annotations

from typing import Any

from secateur_service.models.architectures.architecture import Architecture, Groups, Shapes
from secateur_service.models.architectures.mixtures import EXPERTS, ROUTER, SHARED, corrected, shared_experts
from secateur_service.models.architectures.parts import BEFORE, GATED, experts, final_norm, linear, mlp, norms

# Queries have one projection or two; the projection of keys and values also writes the keys' rotated part.
_ATTENTION: Groups = (
    ("self_attn.q_proj", "self_attn.q_a_proj", "self_attn.kv_a_proj_with_mqa"),
    ("self_attn.q_b_proj",),
    ("self_attn.kv_b_proj",),
    ("self_attn.o_proj",),
)


def _attention(config: Any) -> Shapes:
    d, h, bias = config.hidden_size, config.num_attention_heads, config.attention_bias
    rank, of_queries = config.kv_lora_rank, config.q_lora_rank
    plain, rotated, values = config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim
    found = {
        **linear("self_attn.kv_a_proj_with_mqa", rank + rotated, d, bias=bias),
        **linear("self_attn.kv_b_proj", h * (plain + values), rank),
        **linear("self_attn.o_proj", d, h * values, bias=bias),
        **norms(rank, "self_attn.kv_a_layernorm"),
    }
    if of_queries is None:
        return found | linear("self_attn.q_proj", h * (plain + rotated), d)
    return {
        **found,
        **linear("self_attn.q_a_proj", of_queries, d, bias=bias),
        **linear("self_attn.q_b_proj", h * (plain + rotated), of_queries),
        **norms(of_queries, "self_attn.q_a_layernorm"),
    }


def _deepseek_v2(config: Any, index: int) -> Shapes:
    d, count, f, bias = config.hidden_size, config.n_routed_experts, config.moe_intermediate_size, config.mlp_bias
    mixed = {
        "mlp.gate.weight": (count, d),
        **experts(EXPERTS, count, d, f),
        **shared_experts(config, f * config.n_shared_experts, bias=bias),
    }
    layers = mixed if index >= config.first_k_dense_replace else mlp(config, bias=bias)
    return {**_attention(config), **layers, **norms(d, *BEFORE)}


def _deepseek_v3(config: Any, index: int) -> Shapes:
    return _corrected(config, is_mixed=index >= config.first_k_dense_replace)


def _glm4_moe_lite(config: Any, index: int) -> Shapes:
    return _corrected(config, is_mixed=config.mlp_layer_types[index] == "sparse")


def _corrected(config: Any, *, is_mixed: bool) -> Shapes:
    layers = corrected(config, config.n_routed_experts, config.n_shared_experts) if is_mixed else mlp(config)
    return {**_attention(config), **layers, **norms(config.hidden_size, *BEFORE)}


_GROUPS = (*_ATTENTION, *GATED, *EXPERTS.groups, *SHARED)

ARCHITECTURES = {
    "deepseek_v2": Architecture(
        "DeepseekV2ForCausalLM",
        _GROUPS,
        _deepseek_v2,
        final_norm,
        excluded=ROUTER,
        mixture=EXPERTS,
        required=("num_experts_per_tok",),
    ),
    "deepseek_v3": Architecture(
        "DeepseekV3ForCausalLM",
        _GROUPS,
        _deepseek_v3,
        final_norm,
        excluded=ROUTER,
        mixture=EXPERTS,
        predicts_ahead=True,
    ),
    "glm4_moe_lite": Architecture(
        "Glm4MoeLiteForCausalLM",
        _GROUPS,
        _glm4_moe_lite,
        final_norm,
        excluded=ROUTER,
        mixture=EXPERTS,
        per_block=("mlp_layer_types",),
        rotated_whole=True,
        predicts_ahead=True,
    ),
}
