"""Families that mix attention with layers that carry a state: short convolutions, Mamba-2, and the gated delta rule.

Their linear layers are pruned like all others: in evaluation, transformers calls them as modules whichever kernels are
installed; the one that takes the output projection's weights for itself runs in training only. Convolutions along the
text have a kernel for each channel and no matrix to prune.

Shapes: d hidden size, n inner size of a state-space layer, k, v, widths of all heads of linear attention.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from secateur_service.models.architectures.architecture import (
    Architecture,
    FeedForward,
    Groups,
    Mixture,
    Packed,
    Shapes,
)
from secateur_service.models.architectures.parts import (
    ATTENTION,
    BEFORE,
    FEED_FORWARD,
    GATED,
    HEADS,
    OF_HEADS,
    QKV,
    attention,
    each_expert,
    experts,
    feed_forward,
    final_norm,
    head_width,
    linear,
    mlp,
    norms,
)
from secateur_service.models.architectures.recurrences import (
    delta_recurrence,
    delta_scan,
    mamba_recurrence,
    nemotron_recurrence,
    short_recurrence,
    state_space_scan,
)

_GATED = ("gate_proj", "up_proj", "down_proj")
_MAMBA: Groups = (("mamba.in_proj",), ("mamba.out_proj",))
_SHORT: Groups = (("conv.in_proj",), ("conv.out_proj",))
_FALCON: Groups = (("feed_forward.up_proj", "feed_forward.gate_proj"), ("feed_forward.down_proj",))
_DELTA = tuple(f"linear_attn.in_proj_{name}" for name in ("qkv", "z", "b", "a"))
_NEXT_DELTA = ("linear_attn.in_proj_qkvz", "linear_attn.in_proj_ba")
# One row for each head says how strongly its state is written and how fast it decays, at every token. llm-compressor's
# examples for Qwen3.5 leave all linear attention dense, and these rows are too few to save anything.
_DELTA_GATES = ("linear_attn.in_proj_b.weight", "linear_attn.in_proj_a.weight")
_NEXT_GATES = ("linear_attn.in_proj_ba.weight",)
_DELTA_OUT: Groups = (("linear_attn.out_proj",),)
_GRANITE = Mixture(path="block_sparse_moe.experts", may_lack=True)
_NEMOTRON = Mixture(("up_proj", "down_proj"), "mixer.experts")
_NEXT = Mixture()
_NEXT_SHARED: Groups = (
    ("mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj"),
    ("mlp.shared_expert.down_proj",),
)


def _lfm2(config: Any, index: int) -> Shapes:
    d, bias = config.hidden_size, config.conv_bias
    if config.layer_types[index] == "conv":
        mixer = {
            **linear("conv.in_proj", 3 * d, d, bias=bias),
            **linear("conv.out_proj", d, d, bias=bias),
            **_convolution("conv.conv", d, config.conv_L_cache, bias=bias),
        }
    else:
        names = ("self_attn.q_layernorm", "self_attn.k_layernorm")
        mixer = {**attention(config, bias=False, output="out_proj"), **norms(head_width(config), *names)}
    return {
        **mixer,
        **feed_forward("feed_forward", ("w1", "w3", "w2"), d, _lfm2_width(config)),
        **norms(d, "operator_norm", "ffn_norm"),
    }


def _lfm2_width(config: Any) -> int:
    """The feed-forward layers' width: see Lfm2MLP of transformers."""
    f = int(config.intermediate_size)
    if not config.block_auto_adjust_ff_dim:
        return f
    f = int(2 * f / 3)
    if config.block_ffn_dim_multiplier is not None:
        f, step = int(config.block_ffn_dim_multiplier * f), config.block_multiple_of
        f = step * ((f + step - 1) // step)
    return f


def _qwen3_5(config: Any, index: int) -> Shapes:
    return {**_qwen_mixer(config, index, fused=False), **mlp(config), **norms(config.hidden_size, *BEFORE)}


def _qwen3_next(config: Any, index: int) -> Shapes:
    d, count = config.hidden_size, config.num_experts
    if index in config.mlp_only_layers or (index + 1) % config.decoder_sparse_step:
        layers = mlp(config)
    else:
        layers = {
            "mlp.gate.weight": (count, d),
            "mlp.shared_expert_gate.weight": (1, d),
            **feed_forward("mlp.shared_expert", _GATED, d, config.shared_expert_intermediate_size),
            **experts(_NEXT, count, d, config.moe_intermediate_size),
        }
    return {**_qwen_mixer(config, index, fused=True), **layers, **norms(d, *BEFORE)}


def _qwen_mixer(config: Any, index: int, *, fused: bool) -> Shapes:
    """Attention whose queries have a gate beside them, or linear attention by the gated delta rule."""
    d = config.hidden_size
    if config.layer_types[index] == "full_attention":
        rows, bias = 2 * config.num_attention_heads * head_width(config), config.attention_bias
        queries = linear("self_attn.q_proj", rows, d, bias=bias)
        return {**attention(config, bias=bias), **queries, **norms(head_width(config), *OF_HEADS)}
    h, w = config.linear_num_value_heads, config.linear_value_head_dim
    k, v = config.linear_num_key_heads * config.linear_key_head_dim, h * w
    heights = (2 * k + 2 * v, 2 * h) if fused else (2 * k + v, v, h, h)
    found: Shapes = {f"linear_attn.{name}": (h,) for name in ("A_log", "dt_bias")}
    for name, rows in zip(_NEXT_DELTA if fused else _DELTA, heights, strict=True):
        found |= linear(name, rows, d)
    return {
        **found,
        **linear("linear_attn.out_proj", d, v),
        **_convolution("linear_attn.conv1d", 2 * k + v, config.linear_conv_kernel_dim),
        **norms(w, "linear_attn.norm"),
    }


def _granitemoehybrid(config: Any, index: int) -> Shapes:
    d, f, count = config.hidden_size, config.shared_intermediate_size, config.num_local_experts
    if config.layer_types[index] == "linear_attention":
        n = config.mamba_expand * d
        mixer = {**_mamba(config, n, output_bias=config.mamba_proj_bias), **norms(n, "mamba.norm")}
    else:
        mixer = attention(config, bias=config.attention_bias)
    router = {"block_sparse_moe.router.weight": (count, d)} if count else {}
    return {
        **mixer,
        **router,
        **experts(_GRANITE, count, d, config.intermediate_size),
        **linear("shared_mlp.input_linear", 2 * f, d),
        **linear("shared_mlp.output_linear", d, f),
        **norms(d, *BEFORE),
    }


def _falcon_width(config: Any) -> int:
    """The inner size of the state-space layers."""
    return int(config.mamba_expand * config.hidden_size if config.mamba_d_ssm is None else config.mamba_d_ssm)


def _falcon_h1(config: Any, index: int) -> Shapes:  # noqa: ARG001
    d, f, n = config.hidden_size, config.intermediate_size, _falcon_width(config)
    return {
        **_mamba(config, n, output_bias=config.projectors_bias),
        **(norms(n, "mamba.norm") if config.mamba_rms_norm else {}),
        **attention(config, bias=config.attention_bias),
        **feed_forward("feed_forward", _GATED, d, f, bias=config.mlp_bias),
        **norms(d, "input_layernorm", "pre_ff_layernorm"),
    }


def _mamba(config: Any, n: int, *, output_bias: bool) -> Shapes:
    """A state-space layer with inner size n, without its norm."""
    d, h, bias = config.hidden_size, config.mamba_n_heads, config.mamba_proj_bias
    channels = n + 2 * config.mamba_n_groups * config.mamba_d_state
    return {
        **linear("mamba.in_proj", n + channels + h, d, bias=bias),
        **linear("mamba.out_proj", d, n, bias=output_bias),
        **_convolution("mamba.conv1d", channels, config.mamba_d_conv, bias=config.mamba_conv_bias),
        **{f"mamba.{name}": (h,) for name in ("A_log", "D", "dt_bias")},
    }


def _nemotron_h(config: Any, index: int) -> Shapes:
    d, norm = config.hidden_size, norms(config.hidden_size, "norm")
    kind, bias = config.layers_block_type[index], config.mlp_bias
    if kind == "linear_attention":
        return {**_nemotron_mamba(config), **norm}
    if kind == "full_attention":
        heads = attention(config, bias=False).items()
        return {**{name.replace("self_attn.", "mixer."): shape for name, shape in heads}, **norm}
    if kind == "mlp":
        return {**feed_forward("mixer", _NEMOTRON.layers, d, config.intermediate_size, bias=bias), **norm}
    count, e = config.n_routed_experts, config.moe_latent_size
    shared = config.moe_shared_expert_intermediate_size
    narrowed = {
        **linear("mixer.fc1_latent_proj", e or d, d, bias=bias),
        **linear("mixer.fc2_latent_proj", d, e or d, bias=bias),
    }
    return {
        "mixer.gate.weight": (count, d),
        "mixer.gate.e_score_correction_bias": (count,),
        **({} if e is None else narrowed),
        **experts(_NEMOTRON, count, e or d, config.moe_intermediate_size),
        **feed_forward("mixer.shared_experts", _NEMOTRON.layers, d, shared, bias=bias),
        **norm,
    }


def _nemotron_mamba(config: Any) -> Shapes:
    d, h = config.hidden_size, config.mamba_num_heads
    n = h * config.mamba_head_dim
    channels = n + 2 * config.n_groups * config.ssm_state_size
    return {
        **linear("mixer.in_proj", n + channels + h, d, bias=config.use_bias),
        **linear("mixer.out_proj", d, n, bias=config.use_bias),
        **_convolution("mixer.conv1d", channels, config.conv_kernel, bias=config.use_conv_bias),
        **{f"mixer.{name}": (h,) for name in ("A_log", "D", "dt_bias")},
        **norms(n, "mixer.norm"),
    }


def _convolution(name: str, channels: int, kernel: int, *, bias: bool = False) -> Shapes:
    """A convolution of each channel by itself."""
    return {f"{name}.weight": (channels, 1, kernel), **({f"{name}.bias": (channels,)} if bias else {})}


ARCHITECTURES = {
    "lfm2": Architecture(
        "Lfm2ForCausalLM",
        (
            *_SHORT,
            QKV,
            ("self_attn.out_proj",),
            ("feed_forward.w1", "feed_forward.w3"),
            ("feed_forward.w2",),
        ),
        _lfm2,
        lambda config: norms(config.hidden_size, "embedding_norm"),
        tied=True,
        excluded=("conv.conv.weight",),
        # Its width does not follow from one field of the configuration: see `_lfm2_width`.
        feed_forward=FeedForward(("feed_forward.w1", "feed_forward.w3"), "feed_forward.w2", None),
        layer_types=("conv", "full_attention"),
        recurrence=short_recurrence,
    ),
    "qwen3_5_text": Architecture(
        "Qwen3_5ForCausalLM",
        (_DELTA[:2], *_DELTA_OUT, *ATTENTION, *GATED),
        _qwen3_5,
        final_norm,
        excluded=("linear_attn.conv1d.weight", *_DELTA_GATES),
        spellings=(("model.language_model.", "model."),),
        base="Qwen3_5TextModel",
        left_out=("mtp.", "model.visual."),
        feed_forward=FEED_FORWARD,
        layer_types=("full_attention", "linear_attention"),
        scanned=delta_scan,
        recurrence=delta_recurrence,
        partly_rotary=True,
    ),
    "qwen3_next": Architecture(
        "Qwen3NextForCausalLM",
        (_NEXT_DELTA[:1], *_DELTA_OUT, *ATTENTION, *GATED, *_NEXT_SHARED, *_NEXT.groups),
        _qwen3_next,
        final_norm,
        # Besides the convolution the routers: to experts, and to the one that sees every token.
        excluded=(
            *("linear_attn.conv1d.weight", *_NEXT_GATES),
            *("mlp.gate.weight", "mlp.shared_expert_gate.weight"),
        ),
        left_out=("mtp.",),
        mixture=_NEXT,
        feed_forward=each_expert(_NEXT, "moe_intermediate_size"),
        layer_types=("full_attention", "linear_attention"),
        scanned=delta_scan,
        recurrence=delta_recurrence,
        partly_rotary=True,
    ),
    "granitemoehybrid": Architecture(
        "GraniteMoeHybridForCausalLM",
        (
            *_MAMBA,
            *ATTENTION,
            *_GRANITE.groups,
            ("shared_mlp.input_linear",),
            ("shared_mlp.output_linear",),
        ),
        _granitemoehybrid,
        final_norm,
        excluded=("mamba.conv1d.weight", "block_sparse_moe.router.layer.weight"),
        renamed=((".block_sparse_moe.router.", ".block_sparse_moe.router.layer."),),
        packed=(
            Packed(
                "block_sparse_moe.input_linear.weight",
                ("block_sparse_moe.experts.*.gate_proj.weight", "block_sparse_moe.experts.*.up_proj.weight"),
            ),
            Packed("block_sparse_moe.output_linear.weight", ("block_sparse_moe.experts.*.down_proj.weight",)),
        ),
        mixture=_GRANITE,
        # The one that sees every token, or the only one; the hidden states get it scaled.
        feed_forward=FeedForward(
            ("shared_mlp.input_linear",),
            "shared_mlp.output_linear",
            "shared_intermediate_size",
            fused=2,
            normed=True,
        ),
        scanned=state_space_scan("mamba_n_heads", "mamba_chunk_size", "mamba_d_state"),
        recurrence=lambda config: mamba_recurrence(config, config.mamba_expand * config.hidden_size),
        layer_types=("full_attention", "linear_attention"),
    ),
    "falcon_h1": Architecture(
        "FalconH1ForCausalLM",
        (*_MAMBA, *ATTENTION, *_FALCON),
        _falcon_h1,
        lambda config: norms(config.hidden_size, "final_layernorm"),
        excluded=("mamba.conv1d.weight",),
        outer_buffers=True,
        # What the output layer writes is scaled, as is what attention and state-space layer write.
        feed_forward=replace(
            FEED_FORWARD,
            inputs=("feed_forward.gate_proj", "feed_forward.up_proj"),
            output="feed_forward.down_proj",
            normed=True,
        ),
        attention=HEADS,
        scanned=state_space_scan("mamba_n_heads", "mamba_chunk_size", "mamba_d_state"),
        recurrence=lambda config: mamba_recurrence(config, _falcon_width(config)),
        layer_types=("hybrid",),
        per_block=(),
        returns_tuple=True,
    ),
    "nemotron_h": Architecture(
        "NemotronHForCausalLM",
        (
            ("mixer.in_proj",),
            ("mixer.out_proj",),
            ("mixer.q_proj", "mixer.k_proj", "mixer.v_proj"),
            ("mixer.o_proj",),
            ("mixer.up_proj",),
            ("mixer.down_proj",),
            ("mixer.fc1_latent_proj",),
            *_NEMOTRON.groups,
            ("mixer.fc2_latent_proj",),
            ("mixer.shared_experts.up_proj",),
            ("mixer.shared_experts.down_proj",),
        ),
        _nemotron_h,
        lambda config: norms(config.hidden_size, "norm_f"),
        embedding="model.embeddings",
        excluded=("mixer.conv1d.weight", "mixer.gate.weight"),
        spellings=(("backbone.", "model."),),
        left_out=("mtp.",),
        mixture=_NEMOTRON,
        scanned=state_space_scan("mamba_num_heads", "chunk_size", "ssm_state_size"),
        recurrence=nemotron_recurrence,
        layer_types=("full_attention", "linear_attention", "mlp", "moe"),
        per_block=("layers_block_type", "hybrid_override_pattern"),
        never_tied=True,
    ),
}
