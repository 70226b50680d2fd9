"""What rows of the table are made of: groups of layers, and shapes of parameters, of parts that families share.

Shapes are out × in: d hidden size, f intermediate size, h heads, g heads of keys and values, w width of a head.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from secateur_service.models.architectures.architecture import Attention, FeedForward, Groups, Mixture, Shapes

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
ATTENTION: Groups = (QKV, ("self_attn.o_proj",))


def gated(path: str) -> Groups:
    """Llama's feed-forward layers."""
    return ((f"{path}.gate_proj", f"{path}.up_proj"), (f"{path}.down_proj",))


GATED = gated("mlp")
LLAMA: Groups = (*ATTENTION, *GATED)

FEED_FORWARD = FeedForward(("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj", "intermediate_size")
NORMED_FEED_FORWARD = replace(FEED_FORWARD, normed=True)
HEADS = Attention(QKV, "self_attn.o_proj")
NORMED_HEADS = replace(HEADS, inputs=(*QKV, "self_attn.q_norm", "self_attn.k_norm"))
"""Where queries and keys have norms of their own width for each head."""

BEFORE = ("input_layernorm", "post_attention_layernorm")
OF_HEADS = ("self_attn.q_norm", "self_attn.k_norm")


def each_expert(mixture: Mixture, size: str) -> FeedForward:
    """The feed-forward layers of every expert."""
    inputs, (output,) = mixture.groups
    return FeedForward(inputs, output, size)


def linear(name: str, rows: int, columns: int, *, bias: bool = False) -> Shapes:
    """A linear layer."""
    return {f"{name}.weight": (rows, columns), **({f"{name}.bias": (rows,)} if bias else {})}


def norms(width: int, *names: str, bias: bool = False) -> Shapes:
    """Norms of the same width."""
    kinds = ("weight", "bias") if bias else ("weight",)
    return {f"{name}.{kind}": (width,) for name in names for kind in kinds}


def final_norm(config: Any) -> Shapes:
    """What is outside the blocks in most models: one norm without a bias."""
    return norms(config.hidden_size, "norm")


def head_width(config: Any) -> int:
    """Width of an attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def attention(config: Any, *, bias: bool, output_bias: bool | None = None, output: str = "o_proj") -> Shapes:
    """Projections of queries, keys and values, and of the heads' outputs; `output_bias` is `bias` by default."""
    d, w = config.hidden_size, head_width(config)
    h, g = config.num_attention_heads, config.num_key_value_heads
    return {
        **linear("self_attn.q_proj", h * w, d, bias=bias),
        **linear("self_attn.k_proj", g * w, d, bias=bias),
        **linear("self_attn.v_proj", g * w, d, bias=bias),
        **linear(f"self_attn.{output}", d, h * w, bias=bias if output_bias is None else output_bias),
    }


def feed_forward(path: str, names: tuple[str, ...], d: int, f: int, *, bias: bool = False) -> Shapes:
    """Feed-forward layers: gate, up and down projection, or the latter two."""
    *inputs, output = (f"{path}.{name}" for name in names)
    found = linear(output, d, f, bias=bias)
    for name in inputs:
        found |= linear(name, f, d, bias=bias)
    return found


def mlp(config: Any, *, bias: bool = False, size: int | None = None) -> Shapes:
    """Llama's feed-forward layers; `size` is the configuration's `intermediate_size` by default."""
    f = config.intermediate_size if size is None else size
    return feed_forward("mlp", ("gate_proj", "up_proj", "down_proj"), config.hidden_size, f, bias=bias)


def experts(mixture: Mixture, count: int, d: int, f: int, *, bias: bool = False) -> Shapes:
    """The layers of all experts, without their router."""
    found: Shapes = {}
    for number in range(count):
        found |= feed_forward(f"{mixture.path}.{number}", mixture.layers, d, f, bias=bias)
    return found
