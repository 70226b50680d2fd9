"""Families in the form of GPT-2 and after it: feed-forward layers without a gate, often with biases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from secateur_service.models.architectures.architecture import (
    Architecture,
    Config,
    FeedForward,
    Groups,
    Packed,
    Shapes,
)
from secateur_service.models.architectures.parts import (
    ATTENTION,
    BEFORE,
    FEED_FORWARD,
    GATED,
    HEADS,
    LLAMA,
    QKV,
    attention,
    feed_forward,
    head_width,
    linear,
    mlp,
    norms,
)


def _fused(attention: str) -> Groups:
    """One matrix for queries, keys and values."""
    return ((f"{attention}.query_key_value",), (f"{attention}.dense",), ("mlp.dense_h_to_4h",), ("mlp.dense_4h_to_h",))


def _wide(size: str | None) -> FeedForward:
    return FeedForward(("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h", size)


# GPT-2's matrices are stored as inputs × outputs.
_GPT2 = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")

# Where queries and keys are normalised.
_NORMS_OF_HEADS = ("self_attn.q_layernorm", "self_attn.k_layernorm")
_OPT: Groups = (QKV, ("self_attn.out_proj",), ("fc1",), ("fc2",))
_NEMOTRON: Groups = (*ATTENTION, ("mlp.up_proj",), ("mlp.down_proj",))
_UP_AND_DOWN = FeedForward(("mlp.up_proj",), "mlp.down_proj", "intermediate_size")


def _named_norm(name: str) -> Callable[[Any], Shapes]:
    """What is outside the blocks where that is one norm with a bias."""
    return lambda config: norms(config.hidden_size, name, bias=True)


def _gpt2(config: Any, index: int) -> Shapes:  # noqa: ARG001
    d = config.n_embd
    f = 4 * d if config.n_inner is None else config.n_inner
    return {
        **linear("attn.c_attn", 3 * d, d, bias=True),
        **linear("attn.c_proj", d, d, bias=True),
        **linear("mlp.c_fc", f, d, bias=True),
        **linear("mlp.c_proj", d, f, bias=True),
        **norms(d, "ln_1", "ln_2", bias=True),
    }


def _gpt2_outside(config: Any) -> Shapes:
    return {"wpe.weight": (config.n_positions, config.n_embd), **norms(config.n_embd, "ln_f", bias=True)}


def _gpt_neox(config: Any, index: int) -> Shapes:  # noqa: ARG001
    d, f, bias = config.hidden_size, config.intermediate_size, getattr(config, "attention_bias", True)
    return {
        **linear("attention.query_key_value", 3 * d, d, bias=bias),
        **linear("attention.dense", d, d, bias=bias),
        **linear("mlp.dense_h_to_4h", f, d, bias=True),
        **linear("mlp.dense_4h_to_h", d, f, bias=True),
        **norms(d, *BEFORE, bias=True),
    }


def _opt(config: Any, index: int) -> Shapes:  # noqa: ARG001
    d, f, bias = config.hidden_size, config.ffn_dim, config.enable_bias
    found: Shapes = {}
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        found |= linear(f"self_attn.{name}", d, d, bias=bias)
    found |= linear("fc1", f, d, bias=bias) | linear("fc2", d, f, bias=bias)
    return found | (norms(d, "self_attn_layer_norm", "final_layer_norm", bias=True) if _affine(config) else {})


def _opt_outside(config: Any) -> Shapes:
    d = config.hidden_size
    e = config.word_embed_proj_dim or d
    found: Shapes = {"decoder.embed_positions.weight": (config.max_position_embeddings + 2, d)}
    if e != d:
        found |= linear("decoder.project_in", d, e) | linear("decoder.project_out", e, d)
    if config.do_layer_norm_before and not config._remove_final_layer_norm and _affine(config):
        found |= norms(d, "decoder.final_layer_norm", bias=True)
    return found


def _affine(config: Any) -> bool:
    return bool(config.layer_norm_elementwise_affine)


def _xglm(config: Any, index: int) -> Shapes:  # noqa: ARG001
    d, f = config.d_model, config.ffn_dim
    found: Shapes = {}
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        found |= linear(f"self_attn.{name}", d, d, bias=True)
    found |= linear("fc1", f, d, bias=True) | linear("fc2", d, f, bias=True)
    return found | norms(d, "self_attn_layer_norm", "final_layer_norm", bias=True)


def _phi(config: Any, index: int) -> Shapes:  # noqa: ARG001
    d = config.hidden_size
    return {
        **attention(config, bias=True, output="dense"),
        **feed_forward("mlp", ("fc1", "fc2"), d, config.intermediate_size, bias=True),
        **(norms(head_width(config), *_NORMS_OF_HEADS, bias=True) if config.qk_layernorm else {}),
        **norms(d, "input_layernorm", bias=True),
    }


def _stablelm_groups(config: Config) -> Groups:
    if not config.get("use_parallel_residual"):
        return LLAMA
    return ((*QKV, *GATED[0]), *LLAMA[1:2], *GATED[1:])


def _stablelm(config: Any, index: int) -> Shapes:  # noqa: ARG001
    found = {**attention(config, bias=config.use_qkv_bias, output_bias=False), **mlp(config)}
    if config.qk_layernorm:
        counts = (config.num_attention_heads, config.num_key_value_heads)
        for name, count in zip(_NORMS_OF_HEADS, counts, strict=True):
            found |= norms(head_width(config), *(f"{name}.norms.{head}" for head in range(count)))
    before = BEFORE[:1] if config.use_parallel_residual else BEFORE
    return {**found, **norms(config.hidden_size, *before, bias=True)}


def _starcoder2(config: Any, index: int) -> Shapes:  # noqa: ARG001
    d, bias = config.hidden_size, config.use_bias
    return {
        **attention(config, bias=bias),
        **feed_forward("mlp", ("c_fc", "c_proj"), d, config.intermediate_size, bias=bias),
        **norms(d, *BEFORE, bias=True),
    }


def _nemotron(config: Any, index: int) -> Shapes:  # noqa: ARG001
    d = config.hidden_size
    return {
        **attention(config, bias=config.attention_bias),
        **feed_forward("mlp", ("up_proj", "down_proj"), d, config.intermediate_size, bias=config.mlp_bias),
        **norms(d, *BEFORE, bias=True),
    }


def _falcon_groups(config: Config) -> Groups:
    """Attention and feed-forward share an input where they run in parallel after a single norm.

    Uses the configuration's own defaults, as in FalconConfig and FalconDecoderLayer of transformers: parallel
    attention, with two norms in the new decoder architecture (40B, 180B) and one in the old (7B).
    """
    if config.get("new_decoder_architecture"):
        shared = config.get("num_ln_in_parallel_attn") == 1
    else:
        shared = config.get("parallel_attn", True)
    if not shared:
        return _fused("self_attention")
    return (
        ("self_attention.query_key_value", "mlp.dense_h_to_4h"),
        ("self_attention.dense",),
        ("mlp.dense_4h_to_h",),
    )


def _falcon(config: Any, index: int) -> Shapes:  # noqa: ARG001
    d, f, bias = config.hidden_size, config.ffn_hidden_size, bool(config.bias)
    w = d // config.num_attention_heads
    if config.new_decoder_architecture:
        rows = (config.num_attention_heads + 2 * config.num_kv_heads) * w
    else:
        rows = d + 2 * w if config.multi_query else 3 * d
    count = config.num_ln_in_parallel_attn or (2 if config.new_decoder_architecture else 1)
    parallel = ("ln_attn", "ln_mlp") if count == 2 else ("input_layernorm",)
    return {
        **linear("self_attention.query_key_value", rows, d, bias=bias),
        **linear("self_attention.dense", d, d, bias=bias),
        **linear("mlp.dense_h_to_4h", f, d, bias=bias),
        **linear("mlp.dense_4h_to_h", d, f, bias=bias),
        **norms(d, *(parallel if config.parallel_attn else BEFORE), bias=True),
    }


def _bloom(config: Any, index: int) -> Shapes:  # noqa: ARG001
    d = config.hidden_size
    return {
        **linear("self_attention.query_key_value", 3 * d, d, bias=True),
        **linear("self_attention.dense", d, d, bias=True),
        **linear("mlp.dense_h_to_4h", 4 * d, d, bias=True),
        **linear("mlp.dense_4h_to_h", d, 4 * d, bias=True),
        **norms(d, *BEFORE, bias=True),
    }


ARCHITECTURES = {
    "gpt2": Architecture(
        "GPT2LMHeadModel",
        tuple((name,) for name in _GPT2),
        _gpt2,
        _gpt2_outside,
        blocks="transformer.h",
        embedding="transformer.wte",
        tied=True,
        packed=tuple(Packed(f"{name}.weight", (f"{name}.weight",), transposed=True) for name in _GPT2),
        unread=("attn.bias", "attn.masked_bias", "crossattention.bias"),  # the causal mask, which early versions stored
        numbered=("scale_attn_by_inverse_layer_idx",),
        feed_forward=FeedForward(("mlp.c_fc",), "mlp.c_proj", "n_inner"),
        whole_heads=True,
    ),
    "gpt_neox": Architecture(
        "GPTNeoXForCausalLM",
        _fused("attention"),
        _gpt_neox,
        _named_norm("final_layer_norm"),
        blocks="gpt_neox.layers",
        embedding="gpt_neox.embed_in",
        unread=("attention.bias", "attention.masked_bias"),  # the causal mask, which early versions stored
        renamed=(("lm_head", "embed_out"),),
        partly_rotary=True,
        whole_heads=True,
        feed_forward=_wide("intermediate_size"),
    ),
    "opt": Architecture(
        "OPTForCausalLM",
        _OPT,
        _opt,
        _opt_outside,
        blocks="model.decoder.layers",
        embedding="model.decoder.embed_tokens",
        tied=True,
        feed_forward=FeedForward(("fc1",), "fc2", "ffn_dim"),
        whole_heads=True,
    ),
    "xglm": Architecture(
        "XGLMForCausalLM",
        _OPT,
        _xglm,
        _named_norm("layer_norm"),
        tied=True,
        feed_forward=FeedForward(("fc1",), "fc2", "ffn_dim"),
        whole_heads=True,
    ),
    "phi": Architecture(
        "PhiForCausalLM",
        ((*QKV, "mlp.fc1"), ("self_attn.dense",), ("mlp.fc2",)),
        _phi,
        _named_norm("final_layernorm"),
        head_bias=True,
        feed_forward=FeedForward(("mlp.fc1",), "mlp.fc2", "intermediate_size"),
        partly_rotary=True,
        whole_heads=True,
    ),
    "stablelm": Architecture(
        "StableLmForCausalLM",
        _stablelm_groups,
        _stablelm,
        _named_norm("norm"),
        feed_forward=FEED_FORWARD,
        partly_rotary=True,
        whole_heads=True,
    ),
    "starcoder2": Architecture(
        "Starcoder2ForCausalLM",
        (*ATTENTION, ("mlp.c_fc",), ("mlp.c_proj",)),
        _starcoder2,
        _named_norm("norm"),
        tied=True,
        feed_forward=FeedForward(("mlp.c_fc",), "mlp.c_proj", "intermediate_size"),
        attention=HEADS,
    ),
    "nemotron": Architecture(
        "NemotronForCausalLM",
        _NEMOTRON,
        _nemotron,
        _named_norm("norm"),
        required=("num_key_value_heads",),
        feed_forward=_UP_AND_DOWN,
        attention=HEADS,
        partly_rotary=True,
    ),
    "jais2": Architecture(
        "Jais2ForCausalLM",
        _NEMOTRON,
        _nemotron,
        _named_norm("norm"),
        feed_forward=_UP_AND_DOWN,
        attention=HEADS,
    ),
    "falcon": Architecture(
        "FalconForCausalLM",
        _falcon_groups,
        _falcon,
        _named_norm("ln_f"),
        feed_forward=_wide("ffn_hidden_size"),
        whole_heads=True,
        blocks="transformer.h",
        embedding="transformer.word_embeddings",
        tied=True,
        returns_tuple=True,
    ),
    "bloom": Architecture(
        "BloomForCausalLM",
        _fused("self_attention"),
        _bloom,
        lambda config: norms(config.hidden_size, "word_embeddings_layernorm", "ln_f", bias=True),
        feed_forward=_wide(None),
        whole_heads=True,
        blocks="transformer.h",
        embedding="transformer.word_embeddings",
        tied=True,
        returns_tuple=True,
    ),
}
