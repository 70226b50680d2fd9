"""Families whose blocks have other sizes where they attend to everything: Gemma 4.

Heads are wider there, and there may be fewer of keys and values, or keys that are values too. transformers'
configuration has the sizes of each block in `per_layer_config`, whether config.json says so or gives those of the other
kind (`global_head_dim`).
"""

from __future__ import annotations

from typing import Any

from secateur_service.models.architectures.architecture import Architecture, Mixture, Shapes
from secateur_service.models.architectures.parts import (
    BEFORE,
    LLAMA,
    NORMED_FEED_FORWARD,
    OF_HEADS,
    attention,
    experts,
    final_norm,
    linear,
    mlp,
    norms,
)
from secateur_service.models.architectures.stacked import stacked

_EXPERTS = Mixture(path="experts", chosen="top_k_experts", switch="enable_moe_block")
_AROUND = (*BEFORE, "pre_feedforward_layernorm", "post_feedforward_layernorm")
_AROUND_EXPERTS = ("post_feedforward_layernorm_1", "post_feedforward_layernorm_2", "pre_feedforward_layernorm_2")
_VARYING = ("head_dim", "num_key_value_heads")


def _gemma4_unified(config: Any, index: int) -> Shapes:
    own = config.per_layer_config[index]
    found = {
        **attention(own, bias=config.attention_bias),
        **mlp(config),
        "layer_scalar": (1,),
        **norms(own.head_dim, *OF_HEADS),
        **norms(config.hidden_size, *_AROUND),
    }
    keys_are_values = config.attention_k_eq_v and config.layer_types[index] != "sliding_attention"
    return {name: shape for name, shape in found.items() if not (keys_are_values and ".v_proj." in name)}


def _gemma4(config: Any, index: int) -> Shapes:
    found = _gemma4_unified(config, index)
    if not config.enable_moe_block:
        return found
    d, count = config.hidden_size, config.num_experts
    return {
        **found,
        **linear("router.proj", count, d),
        "router.scale": (d,),
        "router.per_expert_scale": (count,),
        **experts(_EXPERTS, count, d, config.moe_intermediate_size),
        **norms(d, *_AROUND_EXPERTS),
    }


ARCHITECTURES = {
    "gemma4_text": Architecture(
        "Gemma4ForCausalLM",
        (*LLAMA, *_EXPERTS.groups),
        _gemma4,
        final_norm,
        base="Gemma4TextModel",
        tied=True,
        excluded=("router.proj.weight",),
        packed=stacked(_EXPERTS, "experts.gate_up_proj", "experts.down_proj"),
        mixture=_EXPERTS,
        feed_forward=NORMED_FEED_FORWARD,
        partly_rotary=True,
        varying=_VARYING,
        last_kind="full_attention",
        excepted="checkpoints with per-layer inputs (E2B, E4B)",
    ),
    "gemma4_unified_text": Architecture(
        "Gemma4UnifiedForCausalLM",
        LLAMA,
        _gemma4_unified,
        final_norm,
        base="Gemma4UnifiedTextModel",
        tied=True,
        feed_forward=NORMED_FEED_FORWARD,
        partly_rotary=True,
        varying=_VARYING,
        last_kind="full_attention",
        excepted="checkpoints whose last blocks read keys and values of earlier ones",
    ),
}
