"""Dense families in Llama's form: attention of separate projections, and gated feed-forward layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from secateur_service.models.architectures.architecture import Architecture, FeedForward, Groups, Shapes
from secateur_service.models.architectures.parts import (
    ATTENTION,
    BEFORE,
    FEED_FORWARD,
    HEADS,
    LLAMA,
    NORMED_FEED_FORWARD,
    NORMED_HEADS,
    OF_HEADS,
    QKV,
    attention,
    feed_forward,
    final_norm,
    head_width,
    linear,
    mlp,
    norms,
)

# Attention and feed-forward run in parallel on one normalised input.
_COHERE: Groups = ((*QKV, "mlp.gate_proj", "mlp.up_proj"), ("self_attn.o_proj",), ("mlp.down_proj",))
_FUSED: Groups = (("mlp.gate_up_proj",), ("mlp.down_proj",))  # gate above up projection
_FUSED_FEED_FORWARD = FeedForward(("mlp.gate_up_proj",), "mlp.down_proj", "intermediate_size", fused=2)
_UNGATED: Groups = (*ATTENTION, ("mlp.up_proj",), ("mlp.down_proj",))
_UNGATED_FEED_FORWARD = FeedForward(("mlp.up_proj",), "mlp.down_proj", "intermediate_size")
_GEMMA = (*BEFORE, "pre_feedforward_layernorm", "post_feedforward_layernorm")


def _llama(config: Any, index: int) -> Shapes:  # noqa: ARG001
    layers = {**attention(config, bias=config.attention_bias), **mlp(config, bias=config.mlp_bias)}
    return {**layers, **norms(config.hidden_size, *BEFORE)}


def _mistral(config: Any, index: int) -> Shapes:  # noqa: ARG001
    return {**attention(config, bias=False), **mlp(config), **norms(config.hidden_size, *BEFORE)}


def _qwen2(config: Any, index: int) -> Shapes:  # noqa: ARG001
    layers = {**attention(config, bias=True, output_bias=False), **mlp(config)}
    return {**layers, **norms(config.hidden_size, *BEFORE)}


def _qwen3(config: Any, index: int) -> Shapes:  # noqa: ARG001
    layers = {**attention(config, bias=config.attention_bias), **mlp(config)}
    return {**layers, **norms(head_width(config), *OF_HEADS), **norms(config.hidden_size, *BEFORE)}


def _gemma2(config: Any, index: int) -> Shapes:  # noqa: ARG001
    layers = {**attention(config, bias=config.attention_bias), **mlp(config)}
    return {**layers, **norms(config.hidden_size, *_GEMMA)}


def _gemma3(config: Any, index: int) -> Shapes:
    return {**_gemma2(config, index), **norms(head_width(config), *OF_HEADS)}


def _cohere(config: Any, index: int) -> Shapes:
    found = _cohere2(config, index)
    if config.use_qk_norm:
        w = head_width(config)
        counts = (config.num_attention_heads, config.num_key_value_heads)
        found |= {f"{name}.weight": (count, w) for name, count in zip(OF_HEADS, counts, strict=True)}
    return found


def _cohere2(config: Any, index: int) -> Shapes:  # noqa: ARG001
    layers = {**attention(config, bias=config.attention_bias), **mlp(config)}
    return {**layers, **norms(config.hidden_size, "input_layernorm")}


def _phi3(config: Any, index: int) -> Shapes:  # noqa: ARG001
    d, f, w = config.hidden_size, config.intermediate_size, head_width(config)
    h, g = config.num_attention_heads, config.num_key_value_heads
    return {
        **linear("self_attn.qkv_proj", (h + 2 * g) * w, d),
        **linear("self_attn.o_proj", d, h * w),
        **linear("mlp.gate_up_proj", 2 * f, d),
        **linear("mlp.down_proj", d, f),
        **norms(d, *BEFORE),
    }


def _olmo2(config: Any, index: int) -> Shapes:  # noqa: ARG001
    w = head_width(config)
    return {
        **attention(config, bias=config.attention_bias),
        **mlp(config),
        **norms(config.num_attention_heads * w, OF_HEADS[0]),
        **norms(config.num_key_value_heads * w, OF_HEADS[1]),
        **norms(config.hidden_size, "post_attention_layernorm", "post_feedforward_layernorm"),
    }


def _olmo(config: Any, index: int) -> Shapes:  # noqa: ARG001
    """Its norms have no parameters."""
    return {**attention(config, bias=config.attention_bias), **mlp(config)}


def _gemma(config: Any, index: int) -> Shapes:
    return {**_olmo(config, index), **norms(config.hidden_size, *BEFORE)}


def _helium(config: Any, index: int) -> Shapes:  # noqa: ARG001
    d, bias = config.hidden_size, config.attention_bias
    projections = {**attention(config, bias=bias, output_bias=False), **linear("self_attn.o_proj", d, d)}
    return {**projections, **mlp(config, bias=config.mlp_bias), **norms(d, *BEFORE)}


def _ungated(config: Any, *, bias: bool) -> Shapes:
    return {
        **attention(config, bias=config.attention_bias),
        **feed_forward("mlp", ("up_proj", "down_proj"), config.hidden_size, config.intermediate_size, bias=bias),
    }


def _arcee(config: Any, index: int) -> Shapes:  # noqa: ARG001
    return {**_ungated(config, bias=config.mlp_bias), **norms(config.hidden_size, *BEFORE)}


def _apertus(config: Any, index: int) -> Shapes:  # noqa: ARG001
    """Of xIELU (arXiv:2411.13010), a checkpoint holds the two learnt slopes and the two constants."""
    xielu: Shapes = {"alpha_p": (1,), "alpha_n": (1,), "beta": (), "eps": ()}
    return {
        **_ungated(config, bias=False),
        **({f"mlp.act_fn.{name}": shape for name, shape in xielu.items()} if config.hidden_act == "xielu" else {}),
        **norms(head_width(config), *OF_HEADS),
        **norms(config.hidden_size, "attention_layernorm", "feedforward_layernorm"),
    }


def _exaone4(config: Any, index: int) -> Shapes:  # noqa: ARG001
    return {
        **attention(config, bias=False),
        **mlp(config),
        **norms(head_width(config), *OF_HEADS),
        **norms(config.hidden_size, "post_attention_layernorm", "post_feedforward_layernorm"),
    }


def _glm(config: Any, index: int) -> Shapes:  # noqa: ARG001
    d, f = config.hidden_size, config.intermediate_size
    return {
        **attention(config, bias=config.attention_bias, output_bias=False),
        **linear("mlp.gate_up_proj", 2 * f, d),
        **linear("mlp.down_proj", d, f),
        **norms(d, *BEFORE),
    }


def _glm4(config: Any, index: int) -> Shapes:
    return {**_glm(config, index), **norms(config.hidden_size, "post_self_attn_layernorm", "post_mlp_layernorm")}


ARCHITECTURES = {
    "llama": Architecture("LlamaForCausalLM", LLAMA, _llama, final_norm, feed_forward=FEED_FORWARD, attention=HEADS),
    "mistral": Architecture(
        "MistralForCausalLM", LLAMA, _mistral, final_norm, feed_forward=FEED_FORWARD, attention=HEADS
    ),
    "qwen2": Architecture("Qwen2ForCausalLM", LLAMA, _qwen2, final_norm, feed_forward=FEED_FORWARD, attention=HEADS),
    "qwen3": Architecture("Qwen3ForCausalLM", LLAMA, _qwen3, final_norm, feed_forward=FEED_FORWARD, attention=HEADS),
    "gemma2": Architecture(
        "Gemma2ForCausalLM",
        LLAMA,
        _gemma2,
        final_norm,
        tied=True,
        feed_forward=NORMED_FEED_FORWARD,
        attention=HEADS,
    ),
    "gemma3_text": Architecture(
        "Gemma3ForCausalLM",
        LLAMA,
        _gemma3,
        final_norm,
        tied=True,
        base="Gemma3TextModel",
        feed_forward=NORMED_FEED_FORWARD,
        attention=HEADS,
    ),
    "cohere": Architecture(
        "CohereForCausalLM",
        _COHERE,
        _cohere,
        final_norm,
        tied=True,
        excluded=("self_attn.q_norm.weight", "self_attn.k_norm.weight"),
        feed_forward=FEED_FORWARD,
        attention=NORMED_HEADS,
    ),
    "cohere2": Architecture(
        "Cohere2ForCausalLM", _COHERE, _cohere2, final_norm, tied=True, feed_forward=FEED_FORWARD, attention=HEADS
    ),
    "phi3": Architecture(
        "Phi3ForCausalLM",
        (("self_attn.qkv_proj",), ("self_attn.o_proj",), *_FUSED),
        _phi3,
        final_norm,
        feed_forward=_FUSED_FEED_FORWARD,
        partly_rotary=True,
    ),
    "olmo2": Architecture("Olmo2ForCausalLM", LLAMA, _olmo2, final_norm, feed_forward=NORMED_FEED_FORWARD),
    "olmo": Architecture("OlmoForCausalLM", LLAMA, _olmo, lambda _: {}, feed_forward=FEED_FORWARD, attention=HEADS),
    "olmo3": Architecture("Olmo3ForCausalLM", LLAMA, _olmo2, final_norm, feed_forward=NORMED_FEED_FORWARD),
    "smollm3": Architecture(
        "SmolLM3ForCausalLM",
        LLAMA,
        _llama,
        final_norm,
        tied=True,
        feed_forward=FEED_FORWARD,
        attention=HEADS,
        per_block=("layer_types", "no_rope_layers"),
    ),
    "granite": Architecture(
        "GraniteForCausalLM", LLAMA, _llama, final_norm, feed_forward=NORMED_FEED_FORWARD, attention=HEADS
    ),
    "ministral3": Architecture(
        "Ministral3ForCausalLM",
        LLAMA,
        _mistral,
        final_norm,
        feed_forward=FEED_FORWARD,
        attention=HEADS,
        rotary_keys=("llama_4_scaling_beta", "original_max_position_embeddings"),
    ),
    "apertus": Architecture(
        "ApertusForCausalLM",
        _UNGATED,
        _apertus,
        final_norm,
        feed_forward=_UNGATED_FEED_FORWARD,
        attention=HEADS,
        learnt_activations=("xielu",),
    ),
    "gemma": Architecture(
        "GemmaForCausalLM", LLAMA, _gemma, final_norm, tied=True, feed_forward=FEED_FORWARD, attention=HEADS
    ),
    "helium": Architecture(
        "HeliumForCausalLM", LLAMA, _helium, final_norm, feed_forward=FEED_FORWARD, whole_heads=True
    ),
    "arcee": Architecture(
        "ArceeForCausalLM",
        _UNGATED,
        _arcee,
        final_norm,
        feed_forward=_UNGATED_FEED_FORWARD,
        attention=HEADS,
    ),
    "exaone4": Architecture(
        "Exaone4ForCausalLM",
        LLAMA,
        _exaone4,
        final_norm,
        feed_forward=NORMED_FEED_FORWARD,
        attention=HEADS,
    ),
    "glm": Architecture(
        "GlmForCausalLM",
        (*ATTENTION, *_FUSED),
        _glm,
        final_norm,
        feed_forward=_FUSED_FEED_FORWARD,
        attention=HEADS,
        partly_rotary=True,
    ),
    "glm4": Architecture(
        "Glm4ForCausalLM",
        (*ATTENTION, *_FUSED),
        _glm4,
        final_norm,
        feed_forward=replace(_FUSED_FEED_FORWARD, normed=True),
        attention=HEADS,
        partly_rotary=True,
    ),
}
