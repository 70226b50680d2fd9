"""Mixtures of experts that hold a tensor for each projection of each expert."""

from __future__ import annotations

from typing import Any

from secateur_service.models.architectures.architecture import Architecture, Groups, Mixture, Shapes
from secateur_service.models.architectures.parts import (
    ATTENTION,
    BEFORE,
    GATED,
    HEADS,
    LLAMA,
    OF_HEADS,
    QKV,
    attention,
    each_expert,
    experts,
    feed_forward,
    final_norm,
    gated,
    head_width,
    linear,
    mlp,
    norms,
)

EXPERTS = Mixture()
ROUTER = ("mlp.gate.weight",)
SHARED = gated("mlp.shared_experts")
_MIXTRAL = Mixture(("w1", "w3", "w2"))
_GATE_UP_DOWN = EXPERTS.layers


def shared_experts(config: Any, size: int, *, bias: bool = False) -> Shapes:
    """The experts that see every token, as one feed-forward network of their common width."""
    return feed_forward("mlp.shared_experts", _GATE_UP_DOWN, config.hidden_size, size, bias=bias)


def _mixtral(config: Any, index: int) -> Shapes:  # noqa: ARG001
    d, count = config.hidden_size, config.num_local_experts
    return {
        **attention(config, bias=False),
        "mlp.gate.weight": (count, d),
        **experts(_MIXTRAL, count, d, config.intermediate_size),
        **norms(d, *BEFORE),
    }


def _phimoe(config: Any, index: int) -> Shapes:  # noqa: ARG001
    d, count = config.hidden_size, config.num_local_experts
    return {
        **attention(config, bias=config.attention_bias),
        "mlp.router.weight": (count, d),
        **experts(_MIXTRAL, count, d, config.intermediate_size),
        **norms(d, *BEFORE, bias=True),
    }


def _is_dense(config: Any, index: int) -> bool:
    """Whether a block has no experts: see Qwen3MoeDecoderLayer of transformers."""
    return index in (config.mlp_only_layers or []) or bool((index + 1) % config.decoder_sparse_step)


def _qwen2_moe(config: Any, index: int) -> Shapes:
    d, count = config.hidden_size, config.num_experts
    mixed = {
        "mlp.gate.weight": (count, d),
        **experts(EXPERTS, count, d, config.moe_intermediate_size),
        **feed_forward("mlp.shared_expert", _GATE_UP_DOWN, d, config.shared_expert_intermediate_size),
        **linear("mlp.shared_expert_gate", 1, d),
    }
    return {
        **attention(config, bias=config.qkv_bias, output_bias=False),
        **(mlp(config) if _is_dense(config, index) else mixed),
        **norms(d, *BEFORE),
    }


def _qwen3_moe(config: Any, index: int) -> Shapes:
    d, count = config.hidden_size, config.num_local_experts
    mixed = {"mlp.gate.weight": (count, d), **experts(EXPERTS, count, d, config.moe_intermediate_size)}
    return {
        **attention(config, bias=config.attention_bias),
        **(mlp(config) if _is_dense(config, index) else mixed),
        **norms(head_width(config), *OF_HEADS),
        **norms(d, *BEFORE),
    }


def _olmoe(config: Any, index: int) -> Shapes:  # noqa: ARG001
    d, count = config.hidden_size, config.num_experts
    return {
        **attention(config, bias=config.attention_bias),
        "mlp.gate.weight": (count, d),
        **experts(EXPERTS, count, d, config.intermediate_size),
        **norms(d, "self_attn.q_norm"),
        **norms(d // config.num_attention_heads * config.num_key_value_heads, "self_attn.k_norm"),
        **norms(d, *BEFORE),
    }


def corrected(config: Any, count: int, shared: int) -> Shapes:
    """Experts as in DeepSeek V3: chosen by scores that are corrected, beside `shared` ones that see every token."""
    d, f = config.hidden_size, config.moe_intermediate_size
    return {
        "mlp.gate.weight": (count, d),
        "mlp.gate.e_score_correction_bias": (count,),
        **experts(EXPERTS, count, d, f),
        **shared_experts(config, f * shared),
    }


def _glm4_moe(config: Any, index: int) -> Shapes:
    mixed = index >= config.first_k_dense_replace
    return {
        **attention(config, bias=config.attention_bias, output_bias=False),
        **(corrected(config, config.n_routed_experts, config.n_shared_experts) if mixed else mlp(config)),
        **(norms(head_width(config), *OF_HEADS) if config.use_qk_norm else {}),
        **norms(config.hidden_size, *BEFORE),
    }


def _ernie4_5_moe(config: Any, index: int) -> Shapes:
    d, count, f, bias = config.hidden_size, config.moe_num_experts, config.moe_intermediate_size, config.use_bias
    shared = f * config.moe_num_shared_experts
    mixed = {
        "mlp.gate.weight": (count, d),
        "mlp.gate.moe_statics.e_score_correction_bias": (1, count),
        **experts(EXPERTS, count, d, f),
        **(shared_experts(config, shared, bias=bias) if shared else {}),
    }
    first, last = config.moe_layer_start_index, config.moe_layer_end_index
    is_mixed = first <= index <= last and not (index + 1) % config.moe_layer_interval
    return {
        **attention(config, bias=bias),
        **(mixed if is_mixed else mlp(config, bias=bias)),
        **norms(d, *BEFORE),
    }


# As in Cohere's dense models, but experts take the same values in another shape.
_COHERE: Groups = ((*QKV, "mlp.gate_proj", "mlp.up_proj"), ("self_attn.o_proj",), ("mlp.down_proj",))


def _cohere2_moe(config: Any, index: int) -> Shapes:
    d, count, f = config.hidden_size, config.num_experts, config.intermediate_size
    shared = f * config.num_shared_experts
    mixed = {
        "mlp.gate.weight": (count, d),
        **experts(EXPERTS, count, d, f),
        **(shared_experts(config, shared) if shared else {}),
    }
    dense = config.mlp_layer_types[index] == "dense"
    return {
        **attention(config, bias=config.attention_bias),
        **(mlp(config, size=config.prefix_dense_intermediate_size) if dense else mixed),
        **norms(d, "input_layernorm"),
    }


def _dots1(config: Any, index: int) -> Shapes:
    mixed = index >= config.first_k_dense_replace
    return {
        **attention(config, bias=config.attention_bias),
        **(corrected(config, config.n_routed_experts, config.n_shared_experts) if mixed else mlp(config)),
        **norms(head_width(config), *OF_HEADS),
        **norms(config.hidden_size, *BEFORE),
    }


def _solar_open(config: Any, index: int) -> Shapes:  # noqa: ARG001
    return {
        **attention(config, bias=config.attention_bias, output_bias=False),
        **corrected(config, config.n_routed_experts, config.n_shared_experts),
        **norms(config.hidden_size, *BEFORE),
    }


def _exaone_moe(config: Any, index: int) -> Shapes:
    mixed = config.mlp_layer_types[index] == "sparse"
    return {
        **attention(config, bias=False),
        **(corrected(config, config.num_experts, config.num_shared_experts) if mixed else mlp(config)),
        **norms(head_width(config), *OF_HEADS),
        **norms(config.hidden_size, *BEFORE),
    }


def _minimax_m2(config: Any, index: int) -> Shapes:
    count, w = config.num_local_experts, head_width(config)
    return {
        **_mixtral(config, index),
        "mlp.e_score_correction_bias": (count,),
        **norms(config.num_attention_heads * w, OF_HEADS[0]),
        **norms(config.num_key_value_heads * w, OF_HEADS[1]),
    }


ARCHITECTURES = {
    "mixtral": Architecture(
        "MixtralForCausalLM",
        (*ATTENTION, *_MIXTRAL.groups),
        _mixtral,
        final_norm,
        excluded=("block_sparse_moe.gate.weight",),  # the router
        renamed=((".mlp.", ".block_sparse_moe."),),
        mixture=_MIXTRAL,
        feed_forward=each_expert(_MIXTRAL, "intermediate_size"),
        attention=HEADS,
    ),
    "phimoe": Architecture(
        "PhimoeForCausalLM",
        (*ATTENTION, *_MIXTRAL.groups),
        _phimoe,
        lambda config: norms(config.hidden_size, "norm", bias=True),
        head_bias="lm_head_bias",
        excluded=("block_sparse_moe.gate.weight",),
        renamed=((".mlp.router.", ".block_sparse_moe.gate."), (".mlp.", ".block_sparse_moe.")),
        mixture=_MIXTRAL,
        feed_forward=each_expert(_MIXTRAL, "intermediate_size"),
        attention=HEADS,
    ),
    "qwen2_moe": Architecture(
        "Qwen2MoeForCausalLM",
        (*LLAMA, *gated("mlp.shared_expert"), *EXPERTS.groups),
        _qwen2_moe,
        final_norm,
        excluded=(*ROUTER, "mlp.shared_expert_gate.weight"),
        mixture=EXPERTS,
        feed_forward=each_expert(EXPERTS, "moe_intermediate_size"),
        attention=HEADS,
    ),
    "qwen3_moe": Architecture(
        "Qwen3MoeForCausalLM",
        (*LLAMA, *EXPERTS.groups),
        _qwen3_moe,
        final_norm,
        excluded=ROUTER,
        mixture=EXPERTS,
        feed_forward=each_expert(EXPERTS, "moe_intermediate_size"),
        attention=HEADS,
    ),
    "olmoe": Architecture(
        "OlmoeForCausalLM",
        (*ATTENTION, *EXPERTS.groups),
        _olmoe,
        final_norm,
        excluded=ROUTER,
        mixture=EXPERTS,
        feed_forward=each_expert(EXPERTS, "intermediate_size"),
    ),
    "glm4_moe": Architecture(
        "Glm4MoeForCausalLM",
        (*LLAMA, *EXPERTS.groups, *SHARED),
        _glm4_moe,
        final_norm,
        required=("head_dim",),
        excluded=ROUTER,
        mixture=EXPERTS,
        attention=HEADS,
        partly_rotary=True,
        predicts_ahead=True,
    ),
    "ernie4_5_moe": Architecture(
        "Ernie4_5_MoeForCausalLM",
        (*ATTENTION, *SHARED, *GATED, *EXPERTS.groups),
        _ernie4_5_moe,
        final_norm,
        tied=True,
        head_bias="use_bias",
        left_out=("model.mtp_", "mtp_"),
        excluded=(*ROUTER, "mlp.moe_statics.e_score_correction_bias"),
        renamed=((".mlp.gate.moe_statics.", ".mlp.moe_statics."),),
        mixture=EXPERTS,
        attention=HEADS,
    ),
    "cohere2_moe": Architecture(
        "Cohere2MoeForCausalLM",
        (*_COHERE, *EXPERTS.groups, *SHARED),
        _cohere2_moe,
        final_norm,
        tied=True,
        excluded=ROUTER,
        mixture=EXPERTS,
        attention=HEADS,
        per_block=("layer_types", "mlp_layer_types"),
    ),
    "dots1": Architecture(
        "Dots1ForCausalLM",
        (*LLAMA, *EXPERTS.groups, *SHARED),
        _dots1,
        final_norm,
        required=("n_routed_experts", "n_shared_experts", "num_experts_per_tok"),
        excluded=ROUTER,
        mixture=EXPERTS,
        attention=HEADS,
    ),
    "solar_open": Architecture(
        "SolarOpenForCausalLM",
        (*ATTENTION, *EXPERTS.groups, *SHARED),
        _solar_open,
        final_norm,
        excluded=ROUTER,
        mixture=EXPERTS,
        attention=HEADS,
        rotated_whole=True,
    ),
    "exaone_moe": Architecture(
        "ExaoneMoeForCausalLM",
        (*LLAMA, *EXPERTS.groups, *SHARED),
        _exaone_moe,
        final_norm,
        published="ExaoneMoEForCausalLM",
        left_out=("mtp.",),
        excluded=ROUTER,
        renamed=((".mlp.gate.e_score_correction_bias", ".mlp.e_score_correction_bias"),),
        mixture=EXPERTS,
        attention=HEADS,
        per_block=("layer_types", "mlp_layer_types", "is_moe_layer"),
    ),
    "minimax_m2": Architecture(
        "MiniMaxM2ForCausalLM",
        (*ATTENTION, *_MIXTRAL.groups),
        _minimax_m2,
        final_norm,
        excluded=("block_sparse_moe.gate.weight",),
        renamed=((".mlp.", ".block_sparse_moe."),),
        mixture=_MIXTRAL,
        feed_forward=each_expert(_MIXTRAL, "intermediate_size"),
        per_block=("attn_type_list",),
        partly_rotary=True,
    ),
}
