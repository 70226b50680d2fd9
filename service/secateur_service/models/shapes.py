"""Names and shapes of a model's parameters, derived from its configuration without building it.

This is what transformers' classes would build, in one place and without torch, so that weights that do not match their
configuration are detected when a job is submitted. A test compares it with the classes themselves.

Names are those of transformers' model, with experts as separate linear layers (see `experts`). Shapes are out × in:
d hidden size, f intermediate size, h heads, g heads of keys and values, w width of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from secateur_service.models.architectures import ARCHITECTURES

Shapes = dict[str, tuple[int, ...]]


def expected_shapes(config: Any, model_type: str) -> Shapes:
    """The shape of every parameter by its name; a tied head is left out.

    Args:
        config: transformers' configuration, as `read_configuration` returns it.
        model_type: a key of `ARCHITECTURES`.
    """
    architecture = ARCHITECTURES[model_type]
    rows = {f"{architecture.embedding}.weight": (config.vocab_size, _embedded(config))}
    if not config.tie_word_embeddings:
        rows["lm_head.weight"] = (config.vocab_size, _embedded(config))
    base = architecture.base_prefix
    outer = {f"{base}{name}": shape for name, shape in _OUTER.get(model_type, _final_norm)(config).items()}
    blocks: Shapes = {}
    for index in range(config.num_hidden_layers):
        path = f"{architecture.blocks}.{index}"
        blocks |= {f"{path}.{name}": shape for name, shape in _BLOCKS[model_type](config, index).items()}
    return rows | outer | blocks


def _linear(name: str, rows: int, columns: int, *, bias: bool = False) -> Shapes:
    return {f"{name}.weight": (rows, columns), **({f"{name}.bias": (rows,)} if bias else {})}


def _norms(width: int, *names: str, bias: bool = False) -> Shapes:
    kinds = ("weight", "bias") if bias else ("weight",)
    return {f"{name}.{kind}": (width,) for name in names for kind in kinds}


def _embedded(config: Any) -> int:
    """Width of a row of the embedding; OPT projects it to the hidden size."""
    return getattr(config, "word_embed_proj_dim", None) or config.hidden_size


def _head_width(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _attention(config: Any, *, bias: bool, output_bias: bool | None = None) -> Shapes:
    """Projections of queries, keys and values, and of the heads' outputs."""
    d, w = config.hidden_size, _head_width(config)
    h, g = config.num_attention_heads, config.num_key_value_heads
    return {
        **_linear("self_attn.q_proj", h * w, d, bias=bias),
        **_linear("self_attn.k_proj", g * w, d, bias=bias),
        **_linear("self_attn.v_proj", g * w, d, bias=bias),
        **_linear("self_attn.o_proj", d, h * w, bias=bias if output_bias is None else output_bias),
    }


def _gated(path: str, names: tuple[str, str, str], d: int, f: int, *, bias: bool = False) -> Shapes:
    """A feed-forward part with gate, up and down projection."""
    gate, up, down = (f"{path}.{name}" for name in names)
    return {**_linear(gate, f, d, bias=bias), **_linear(up, f, d, bias=bias), **_linear(down, d, f, bias=bias)}


def _mlp(config: Any, *, bias: bool = False) -> Shapes:
    names = ("gate_proj", "up_proj", "down_proj")
    return _gated("mlp", names, config.hidden_size, config.intermediate_size, bias=bias)


def _experts(config: Any, model_type: str, f: int) -> Shapes:
    names, d, count = ARCHITECTURES[model_type].experts, config.hidden_size, config.num_local_experts
    assert names is not None
    found: Shapes = {"mlp.gate.weight": (count, d)}
    for expert in range(count):
        found |= _gated(f"mlp.experts.{expert}", names, d, f)
    return found


_BEFORE = ("input_layernorm", "post_attention_layernorm")
_GEMMA = (*_BEFORE, "pre_feedforward_layernorm", "post_feedforward_layernorm")
_OF_HEADS = ("self_attn.q_norm", "self_attn.k_norm")


def _llama(config: Any, index: int) -> Shapes:  # noqa: ARG001
    attention = _attention(config, bias=config.attention_bias)
    return {**attention, **_mlp(config, bias=config.mlp_bias), **_norms(config.hidden_size, *_BEFORE)}


def _mistral(config: Any, index: int) -> Shapes:  # noqa: ARG001
    return {**_attention(config, bias=False), **_mlp(config), **_norms(config.hidden_size, *_BEFORE)}


def _mixtral(config: Any, index: int) -> Shapes:  # noqa: ARG001
    experts = _experts(config, "mixtral", config.intermediate_size)
    return {**_attention(config, bias=False), **experts, **_norms(config.hidden_size, *_BEFORE)}


def _qwen2(config: Any, index: int) -> Shapes:  # noqa: ARG001
    attention = _attention(config, bias=True, output_bias=False)
    return {**attention, **_mlp(config), **_norms(config.hidden_size, *_BEFORE)}


def _qwen3(config: Any, index: int) -> Shapes:  # noqa: ARG001
    return {**_qwen3_outside(config), **_mlp(config)}


def _qwen3_moe(config: Any, index: int) -> Shapes:
    dense = index in (config.mlp_only_layers or []) or (index + 1) % config.decoder_sparse_step
    return {
        **_qwen3_outside(config),
        **(_mlp(config) if dense else _experts(config, "qwen3_moe", config.moe_intermediate_size)),
    }


def _qwen3_outside(config: Any) -> Shapes:
    attention = _attention(config, bias=config.attention_bias)
    return {**attention, **_norms(_head_width(config), *_OF_HEADS), **_norms(config.hidden_size, *_BEFORE)}


def _gemma2(config: Any, index: int) -> Shapes:  # noqa: ARG001
    attention = _attention(config, bias=config.attention_bias)
    return {**attention, **_mlp(config), **_norms(config.hidden_size, *_GEMMA)}


def _gemma3(config: Any, index: int) -> Shapes:
    return {**_gemma2(config, index), **_norms(_head_width(config), *_OF_HEADS)}


def _cohere(config: Any, index: int) -> Shapes:
    found = _cohere2(config, index)
    if config.use_qk_norm:
        w = _head_width(config)
        counts = (config.num_attention_heads, config.num_key_value_heads)
        found |= {f"{name}.weight": (count, w) for name, count in zip(_OF_HEADS, counts, strict=True)}
    return found


def _cohere2(config: Any, index: int) -> Shapes:  # noqa: ARG001
    attention = _attention(config, bias=config.attention_bias)
    return {**attention, **_mlp(config), **_norms(config.hidden_size, "input_layernorm")}


def _phi3(config: Any, index: int) -> Shapes:  # noqa: ARG001
    d, f, w = config.hidden_size, config.intermediate_size, _head_width(config)
    h, g = config.num_attention_heads, config.num_key_value_heads
    return {
        **_linear("self_attn.qkv_proj", (h + 2 * g) * w, d),
        **_linear("self_attn.o_proj", d, h * w),
        **_linear("mlp.gate_up_proj", 2 * f, d),
        **_linear("mlp.down_proj", d, f),
        **_norms(d, *_BEFORE),
    }


def _olmo2(config: Any, index: int) -> Shapes:  # noqa: ARG001
    w = _head_width(config)
    return {
        **_attention(config, bias=config.attention_bias),
        **_mlp(config),
        **_norms(config.num_attention_heads * w, _OF_HEADS[0]),
        **_norms(config.num_key_value_heads * w, _OF_HEADS[1]),
        **_norms(config.hidden_size, "post_attention_layernorm", "post_feedforward_layernorm"),
    }


def _gpt_neox(config: Any, index: int) -> Shapes:  # noqa: ARG001
    d, f, bias = config.hidden_size, config.intermediate_size, getattr(config, "attention_bias", True)
    return {
        **_linear("attention.query_key_value", 3 * d, d, bias=bias),
        **_linear("attention.dense", d, d, bias=bias),
        **_linear("mlp.dense_h_to_4h", f, d, bias=True),
        **_linear("mlp.dense_4h_to_h", d, f, bias=True),
        **_norms(d, *_BEFORE, bias=True),
    }


def _opt(config: Any, index: int) -> Shapes:  # noqa: ARG001
    d, f, bias = config.hidden_size, config.ffn_dim, config.enable_bias
    found: Shapes = {}
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        found |= _linear(f"self_attn.{name}", d, d, bias=bias)
    found |= _linear("fc1", f, d, bias=bias) | _linear("fc2", d, f, bias=bias)
    return found | (_norms(d, "self_attn_layer_norm", "final_layer_norm", bias=True) if _affine(config) else {})


def _affine(config: Any) -> bool:
    return bool(config.layer_norm_elementwise_affine)


def _falcon(config: Any, index: int) -> Shapes:  # noqa: ARG001
    d, f, bias = config.hidden_size, config.ffn_hidden_size, bool(config.bias)
    w = d // config.num_attention_heads
    if config.new_decoder_architecture:
        rows = (config.num_attention_heads + 2 * config.num_kv_heads) * w
    else:
        rows = d + 2 * w if config.multi_query else 3 * d
    count = config.num_ln_in_parallel_attn or (2 if config.new_decoder_architecture else 1)
    parallel = ("ln_attn", "ln_mlp") if count == 2 else ("input_layernorm",)
    norms = parallel if config.parallel_attn else _BEFORE
    return {
        **_linear("self_attention.query_key_value", rows, d, bias=bias),
        **_linear("self_attention.dense", d, d, bias=bias),
        **_linear("mlp.dense_h_to_4h", f, d, bias=bias),
        **_linear("mlp.dense_4h_to_h", d, f, bias=bias),
        **_norms(d, *norms, bias=True),
    }


def _bloom(config: Any, index: int) -> Shapes:  # noqa: ARG001
    d = config.hidden_size
    return {
        **_linear("self_attention.query_key_value", 3 * d, d, bias=True),
        **_linear("self_attention.dense", d, d, bias=True),
        **_linear("mlp.dense_h_to_4h", 4 * d, d, bias=True),
        **_linear("mlp.dense_4h_to_h", d, 4 * d, bias=True),
        **_norms(d, *_BEFORE, bias=True),
    }


_BLOCKS: dict[str, Callable[[Any, int], Shapes]] = {
    "llama": _llama,
    "mistral": _mistral,
    "mixtral": _mixtral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "cohere": _cohere,
    "cohere2": _cohere2,
    "phi3": _phi3,
    "olmo2": _olmo2,
    "gpt_neox": _gpt_neox,
    "opt": _opt,
    "falcon": _falcon,
    "bloom": _bloom,
}
"""Parameters of a block, by their names relative to it."""


def _final_norm(config: Any) -> Shapes:
    return _norms(config.hidden_size, "norm")


def _opt_outside(config: Any) -> Shapes:
    d, e = config.hidden_size, _embedded(config)
    found: Shapes = {"decoder.embed_positions.weight": (config.max_position_embeddings + 2, d)}
    if e != d:
        found |= _linear("decoder.project_in", d, e) | _linear("decoder.project_out", e, d)
    if config.do_layer_norm_before and not config._remove_final_layer_norm and _affine(config):
        found |= _norms(d, "decoder.final_layer_norm", bias=True)
    return found


_OUTER: dict[str, Callable[[Any], Shapes]] = {
    "gpt_neox": lambda config: _norms(config.hidden_size, "final_layer_norm", bias=True),
    "opt": _opt_outside,
    "falcon": lambda config: _norms(config.hidden_size, "ln_f", bias=True),
    "bloom": lambda config: _norms(config.hidden_size, "word_embeddings_layernorm", "ln_f", bias=True),
}
"""Parameters outside blocks, embedding and head, by their names in the base model; by default one final norm."""
