"""Dense families of 2025 in Llama's form."""

from __future__ import annotations

from typing import Any

from secateur_service.models.architectures.architecture import Architecture, FeedForward, Groups, Shapes
from secateur_service.models.architectures.parts import (
    ATTENTION,
    BEFORE,
    FEED_FORWARD,
    HEADS,
    LLAMA,
    attention,
    feed_forward,
    final_norm,
    head_width,
    mlp,
    norms,
)

_NANOCHAT: Groups = (*ATTENTION, ("mlp.fc1",), ("mlp.fc2",))


def _seed_oss(config: Any, index: int) -> Shapes:  # noqa: ARG001
    layers = attention(config, bias=config.attention_bias, output_bias=config.attention_out_bias)
    return {**layers, **mlp(config, bias=config.mlp_bias), **norms(config.hidden_size, *BEFORE)}


def _ernie4_5(config: Any, index: int) -> Shapes:  # noqa: ARG001
    bias = bool(config.use_bias)
    return {**attention(config, bias=bias), **mlp(config, bias=bias), **norms(config.hidden_size, *BEFORE)}


def _hunyuan(config: Any, index: int) -> Shapes:  # noqa: ARG001
    return {
        **attention(config, bias=config.attention_bias),
        **mlp(config),
        **norms(head_width(config), "self_attn.query_layernorm", "self_attn.key_layernorm"),
        **norms(config.hidden_size, *BEFORE),
    }


def _internlm3(config: Any, index: int) -> Shapes:  # noqa: ARG001
    layers = {**attention(config, bias=config.attention_bias), **mlp(config, bias=config.mlp_bias)}
    return {**layers, **norms(config.hidden_size, *BEFORE)}


def _cwm(config: Any, index: int) -> Shapes:  # noqa: ARG001
    layers = {**attention(config, bias=False), **mlp(config, bias=config.mlp_bias)}
    return {**layers, **norms(config.hidden_size, *BEFORE)}


def _ministral(config: Any, index: int) -> Shapes:  # noqa: ARG001
    return {**attention(config, bias=False), **mlp(config), **norms(config.hidden_size, *BEFORE)}


def _vaultgemma(config: Any, index: int) -> Shapes:  # noqa: ARG001
    layers = {**attention(config, bias=config.attention_bias), **mlp(config)}
    return {**layers, **norms(config.hidden_size, "input_layernorm", "pre_feedforward_layernorm")}


def _nanochat(config: Any, index: int) -> Shapes:  # noqa: ARG001
    """Its norms have no parameters."""
    layers = feed_forward("mlp", ("fc1", "fc2"), config.hidden_size, config.intermediate_size)
    return {**attention(config, bias=config.attention_bias), **layers}


ARCHITECTURES = {
    "seed_oss": Architecture(
        "SeedOssForCausalLM", LLAMA, _seed_oss, final_norm, feed_forward=FEED_FORWARD, attention=HEADS
    ),
    "ernie4_5": Architecture(
        "Ernie4_5ForCausalLM", LLAMA, _ernie4_5, final_norm, tied=True, feed_forward=FEED_FORWARD, attention=HEADS
    ),
    "hunyuan_v1_dense": Architecture(
        "HunYuanDenseV1ForCausalLM",
        LLAMA,
        _hunyuan,
        final_norm,
        required=("head_dim",),
        feed_forward=FEED_FORWARD,
        attention=HEADS,
    ),
    "internlm3": Architecture(
        "LlamaForCausalLM",
        LLAMA,
        _internlm3,
        final_norm,
        published="InternLM3ForCausalLM",
        feed_forward=FEED_FORWARD,
        attention=HEADS,
    ),
    "cwm": Architecture("CwmForCausalLM", LLAMA, _cwm, final_norm, feed_forward=FEED_FORWARD, attention=HEADS),
    "ministral": Architecture(
        "MinistralForCausalLM",
        LLAMA,
        _ministral,
        final_norm,
        required=("head_dim",),
        feed_forward=FEED_FORWARD,
        attention=HEADS,
    ),
    "vaultgemma": Architecture(
        "VaultGemmaForCausalLM",
        LLAMA,
        _vaultgemma,
        final_norm,
        tied=True,
        feed_forward=FEED_FORWARD,
        attention=HEADS,
    ),
    "nanochat": Architecture(
        "NanoChatForCausalLM",
        _NANOCHAT,
        _nanochat,
        lambda _: {},
        feed_forward=FeedForward(("mlp.fc1",), "mlp.fc2", "intermediate_size"),
        attention=HEADS,
    ),
}
