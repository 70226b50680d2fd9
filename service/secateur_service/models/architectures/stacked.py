"""Mixtures of experts that hold the projections of all experts of a block in one tensor."""

from __future__ import annotations

from typing import Any

from secateur_service.models.architectures.architecture import Architecture, Mixture, Packed, Shapes
from secateur_service.models.architectures.parts import (
    ATTENTION,
    BEFORE,
    HEADS,
    attention,
    experts,
    feed_forward,
    final_norm,
    gated,
    norms,
)


def stacked(mixture: Mixture, inputs: str, output: str, **layout: bool) -> tuple[Packed, ...]:
    """Two tensors: one of gate and up projections, one of down projections."""
    *into, out = (f"{mixture.path}.*.{name}.weight" for name in mixture.layers)
    kept = {key: value for key, value in layout.items() if key != "interleaved"}
    return (Packed(inputs, tuple(into), **layout), Packed(output, (out,), **kept))


_GRANITE = Mixture(path="block_sparse_moe.experts")
_GPT_OSS = Mixture()
_LLAMA4 = Mixture(path="feed_forward.experts", scaled=True)


def _granitemoe(config: Any, index: int) -> Shapes:  # noqa: ARG001
    d, count = config.hidden_size, config.num_local_experts
    return {
        **attention(config, bias=config.attention_bias),
        "block_sparse_moe.router.weight": (count, d),
        **experts(_GRANITE, count, d, config.intermediate_size),
        **norms(d, *BEFORE),
    }


def _gpt_oss(config: Any, index: int) -> Shapes:  # noqa: ARG001
    d, count = config.hidden_size, config.num_local_experts
    return {
        **attention(config, bias=config.attention_bias),
        "self_attn.sinks": (config.num_attention_heads,),
        "mlp.router.weight": (count, d),
        "mlp.router.bias": (count,),
        **experts(_GPT_OSS, count, d, config.intermediate_size, bias=True),
        **norms(d, *BEFORE),
    }


def _llama4(config: Any, index: int) -> Shapes:
    d, count, f = config.hidden_size, config.num_local_experts, config.intermediate_size
    names = _LLAMA4.layers
    if index in config.moe_layers:
        layers = {
            "feed_forward.router.weight": (count, d),
            **experts(_LLAMA4, count, d, f),
            **feed_forward("feed_forward.shared_expert", names, d, f),
        }
    else:
        layers = feed_forward("feed_forward", names, d, config.intermediate_size_mlp)
    return {**attention(config, bias=config.attention_bias), **layers, **norms(d, *BEFORE)}


ARCHITECTURES = {
    "granitemoe": Architecture(
        "GraniteMoeForCausalLM",
        (*ATTENTION, *_GRANITE.groups),
        _granitemoe,
        final_norm,
        excluded=("block_sparse_moe.router.layer.weight",),
        renamed=((".block_sparse_moe.router.", ".block_sparse_moe.router.layer."),),
        packed=stacked(_GRANITE, "block_sparse_moe.input_linear.weight", "block_sparse_moe.output_linear.weight"),
        mixture=_GRANITE,
        attention=HEADS,
    ),
    "gpt_oss": Architecture(
        "GptOssForCausalLM",
        (*ATTENTION, *_GPT_OSS.groups),
        _gpt_oss,
        final_norm,
        excluded=("mlp.router.weight", "mlp.experts.gate_up_proj_bias", "mlp.experts.down_proj_bias"),
        packed=(
            *stacked(_GPT_OSS, "mlp.experts.gate_up_proj", "mlp.experts.down_proj", transposed=True, interleaved=True),
            Packed(
                "mlp.experts.gate_up_proj_bias",
                ("mlp.experts.*.gate_proj.bias", "mlp.experts.*.up_proj.bias"),
                interleaved=True,
            ),
            Packed("mlp.experts.down_proj_bias", ("mlp.experts.*.down_proj.bias",)),
        ),
        mixture=_GPT_OSS,
    ),
    "llama4_text": Architecture(
        "Llama4ForCausalLM",
        (*ATTENTION, *gated("feed_forward"), *_LLAMA4.groups, *gated("feed_forward.shared_expert")),
        _llama4,
        final_norm,
        base="Llama4TextModel",
        loads_base=False,
        excluded=("feed_forward.router.weight",),
        packed=stacked(_LLAMA4, "feed_forward.experts.gate_up_proj", "feed_forward.experts.down_proj", transposed=True),
        mixture=_LLAMA4,
        attention=HEADS,
        layer_types=("full_attention", "chunked_attention"),
        per_block=("layer_types", "no_rope_layers"),
    ),
}
