"""Mixtures of experts."""

from __future__ import annotations

from typing import Any

from secateur_service.models.architectures.architecture import Architecture, Mixture, Shapes
from secateur_service.models.architectures.parts import (
    ATTENTION,
    BEFORE,
    HEADS,
    LLAMA,
    OF_HEADS,
    attention,
    each_expert,
    experts,
    final_norm,
    head_width,
    mlp,
    norms,
)

_EXPERTS = Mixture()
_MIXTRAL = Mixture(("w1", "w3", "w2"))


def _mixtral(config: Any, index: int) -> Shapes:  # noqa: ARG001
    d, count = config.hidden_size, config.num_local_experts
    return {
        **attention(config, bias=False),
        "mlp.gate.weight": (count, d),
        **experts(_MIXTRAL, count, d, config.intermediate_size),
        **norms(d, *BEFORE),
    }


def _qwen3_moe(config: Any, index: int) -> Shapes:
    """Some blocks may be dense: see Qwen3MoeDecoderLayer of transformers."""
    d, count = config.hidden_size, config.num_local_experts
    dense = index in (config.mlp_only_layers or []) or (index + 1) % config.decoder_sparse_step
    mixed = {"mlp.gate.weight": (count, d), **experts(_EXPERTS, count, d, config.moe_intermediate_size)}
    return {
        **attention(config, bias=config.attention_bias),
        **(mlp(config) if dense else mixed),
        **norms(head_width(config), *OF_HEADS),
        **norms(d, *BEFORE),
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
    "qwen3_moe": Architecture(
        "Qwen3MoeForCausalLM",
        (*LLAMA, *_EXPERTS.groups),
        _qwen3_moe,
        final_norm,
        excluded=("mlp.gate.weight",),  # the router
        mixture=_EXPERTS,
        feed_forward=each_expert(_EXPERTS, "moe_intermediate_size"),
        attention=HEADS,
    ),
}
