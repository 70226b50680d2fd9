"""What the decoder blocks of each supported architecture consist of.

One row per `model_type` of transformers. A row names the linear layers that are pruned, grouped by the input they
share and in the order in which a block runs them, so that statistics are gathered once per distinct input. Any other
tensor of a block with two or more dimensions must be listed as excluded; a model with an unlisted matrix is refused.
The groups are verified while the first batch runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

Inputs = tuple[tuple[str, ...], ...]
Config = Mapping[str, Any]

_MAX_EXPERTS = 4096


@dataclass(frozen=True)
class FeedForward:
    """The feed-forward layers of a block, whose channels can be removed.

    In a mixture of experts each expert has its own; `*` in the names stands for the number of an expert.

    Attributes:
        inputs: linear layers that write the channels, relative to the block.
        output: the linear layer that reads them.
        size: the field of the configuration that has their number; None if it has none.
        fused: of how many equal parts, one below the other, each input consists.
        normed: whether what the output layer writes is normalised before it is added to the hidden states.
    """

    inputs: tuple[str, ...]
    output: str
    size: str | None
    fused: int = 1
    normed: bool = False

    @property
    def of_experts(self) -> bool:
        """Whether each expert has its own."""
        return "*" in self.output


@dataclass(frozen=True)
class Attention:
    """The attention of a block, whose key/value heads can be removed together with their query heads.

    Attributes:
        inputs: linear layers and norms that have rows of each head, relative to the block.
        output: the linear layer that reads what the heads produce.
    """

    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Architecture:
    """How to find and prune the blocks of one architecture.

    Attributes:
        class_name: the causal language model's class in transformers, as `config.architectures` names it.
        inputs: maps a configuration and a block's number to the names of the block's pruned linear layers, relative to
            the block; each inner tuple shares one input. Raises ValueError if the configuration makes no sense.
        blocks: module path of the list of decoder blocks.
        embedding: module path of the token embedding.
        tied: whether the head is the embedding where the configuration does not say.
        excluded: names, in the checkpoint, of a block's tensors with two or more dimensions that are left unchanged.
        renamed: (part of a module path, what the checkpoint has instead).
        unread: names, relative to a block, of tensors that some checkpoints have and no loader reads.
        base: transformers' class without a head, where its name does not follow from `class_name`.
        experts: names of an expert's gate, up and down projection, in architectures that mix experts.
        feed_forward: the feed-forward layers, where all blocks have the same; in a mixture, those of the experts.
        attention: the attention, where heads can be removed: the configuration can say how wide a head is, and each
            head's queries and keys are normalised by themselves if at all.
        returns_tuple: whether a block returns a tuple whose first item is the hidden states.
    """

    class_name: str
    inputs: Callable[[Config, int], Inputs]
    blocks: str = "model.layers"
    embedding: str = "model.embed_tokens"
    tied: bool = False
    excluded: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    experts: tuple[str, str, str] | None = None
    feed_forward: FeedForward | None = None
    attention: Attention | None = None
    returns_tuple: bool = False
    unread: tuple[str, ...] = ()
    base: str | None = None

    @cached_property
    def base_prefix(self) -> str:
        """The prefix of the base model's names; some checkpoints omit it."""
        return self.blocks.partition(".")[0] + "."

    @property
    def base_class(self) -> str:
        """The transformers class of the model without its head."""
        return self.base or self.class_name.replace("ForCausalLM", "Model")


def _always(*groups: tuple[str, ...]) -> Callable[[Config, int], Inputs]:
    """The same layers in every block of every model."""
    return lambda config, index: groups  # noqa: ARG005


_ATTENTION: Inputs = (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ("self_attn.o_proj",))
_FEED_FORWARD: Inputs = (("mlp.gate_proj", "mlp.up_proj"), ("mlp.down_proj",))
_LLAMA = _always(*_ATTENTION, *_FEED_FORWARD)

# Attention and feed-forward run in parallel on one normalised input.
_COHERE = _always(
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"),
    ("self_attn.o_proj",),
    ("mlp.down_proj",),
)


def _fused(attention: str) -> Inputs:
    """One matrix for queries, keys and values."""
    return ((f"{attention}.query_key_value",), (f"{attention}.dense",), ("mlp.dense_h_to_4h",), ("mlp.dense_4h_to_h",))


def _falcon(config: Config, index: int) -> Inputs:  # noqa: ARG001
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


def _experts(config: Config, names: tuple[str, str, str]) -> Inputs:
    """Each expert has its own inputs: the tokens routed to it."""
    count = config.get("num_local_experts", config.get("num_experts"))
    if type(count) is not int or not 1 <= count <= _MAX_EXPERTS:
        raise ValueError(f"num_experts is {count!r}, which is not a number of experts")
    gate, up, down = names
    groups = []
    for expert in range(count):
        path = f"mlp.experts.{expert}"
        groups += [(f"{path}.{gate}", f"{path}.{up}"), (f"{path}.{down}",)]
    return tuple(groups)


_GATED = FeedForward(("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj", "intermediate_size")
_NORMED = replace(_GATED, normed=True)

_HEADS = Attention(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "self_attn.o_proj")
_NORMED_HEADS = replace(_HEADS, inputs=(*_HEADS.inputs, "self_attn.q_norm", "self_attn.k_norm"))


def _wide(size: str | None) -> FeedForward:
    """Without a gate, under the names that follow GPT-2's."""
    return FeedForward(("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h", size)


_MIXTRAL_EXPERT = ("w1", "w3", "w2")
_QWEN_EXPERT = ("gate_proj", "up_proj", "down_proj")


def _each_expert(names: tuple[str, str, str], size: str) -> FeedForward:
    """The feed-forward layers of every expert."""
    gate, up, down = (f"mlp.experts.*.{name}" for name in names)
    return FeedForward((gate, up), down, size)


def _mixtral(config: Config, index: int) -> Inputs:  # noqa: ARG001
    return (*_ATTENTION, *_experts(config, _MIXTRAL_EXPERT))


def _qwen3_moe(config: Config, index: int) -> Inputs:
    """Some blocks may be dense: see Qwen3MoeDecoderLayer of transformers."""
    step, dense = config.get("decoder_sparse_step", 1), config.get("mlp_only_layers") or []
    if type(step) is not int or step < 1 or not isinstance(dense, list):
        raise ValueError("decoder_sparse_step or mlp_only_layers is malformed")
    if index in dense or (index + 1) % step:
        return (*_ATTENTION, *_FEED_FORWARD)
    return (*_ATTENTION, *_experts(config, _QWEN_EXPERT))


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("LlamaForCausalLM", _LLAMA, feed_forward=_GATED, attention=_HEADS),
    "mistral": Architecture("MistralForCausalLM", _LLAMA, feed_forward=_GATED, attention=_HEADS),
    "mixtral": Architecture(
        "MixtralForCausalLM",
        _mixtral,
        excluded=("block_sparse_moe.gate.weight",),  # the router
        renamed=((".mlp.", ".block_sparse_moe."),),
        experts=_MIXTRAL_EXPERT,
        feed_forward=_each_expert(_MIXTRAL_EXPERT, "intermediate_size"),
        attention=_HEADS,
    ),
    "qwen2": Architecture("Qwen2ForCausalLM", _LLAMA, feed_forward=_GATED, attention=_HEADS),
    "qwen3": Architecture("Qwen3ForCausalLM", _LLAMA, feed_forward=_GATED, attention=_HEADS),
    "qwen3_moe": Architecture(
        "Qwen3MoeForCausalLM",
        _qwen3_moe,
        excluded=("mlp.gate.weight",),  # the router
        experts=_QWEN_EXPERT,
        feed_forward=_each_expert(_QWEN_EXPERT, "moe_intermediate_size"),
        attention=_HEADS,
    ),
    "gemma2": Architecture("Gemma2ForCausalLM", _LLAMA, tied=True, feed_forward=_NORMED, attention=_HEADS),
    "gemma3_text": Architecture(
        "Gemma3ForCausalLM", _LLAMA, tied=True, base="Gemma3TextModel", feed_forward=_NORMED, attention=_HEADS
    ),
    "cohere": Architecture(
        "CohereForCausalLM",
        _COHERE,
        tied=True,
        excluded=("self_attn.q_norm.weight", "self_attn.k_norm.weight"),
        feed_forward=_GATED,
        attention=_NORMED_HEADS,
    ),
    "cohere2": Architecture("Cohere2ForCausalLM", _COHERE, tied=True, feed_forward=_GATED, attention=_HEADS),
    "phi3": Architecture(
        "Phi3ForCausalLM",
        _always(("self_attn.qkv_proj",), ("self_attn.o_proj",), ("mlp.gate_up_proj",), ("mlp.down_proj",)),
        feed_forward=FeedForward(("mlp.gate_up_proj",), "mlp.down_proj", "intermediate_size", fused=2),
    ),
    "olmo2": Architecture("Olmo2ForCausalLM", _LLAMA, feed_forward=_NORMED),
    "gpt_neox": Architecture(
        "GPTNeoXForCausalLM",
        _always(*_fused("attention")),
        blocks="gpt_neox.layers",
        embedding="gpt_neox.embed_in",
        unread=("attention.bias", "attention.masked_bias"),  # the causal mask, which early versions stored
        renamed=(("lm_head", "embed_out"),),
        feed_forward=_wide("intermediate_size"),
    ),
    "opt": Architecture(
        "OPTForCausalLM",
        _always(
            ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            ("self_attn.out_proj",),
            ("fc1",),
            ("fc2",),
        ),
        blocks="model.decoder.layers",
        embedding="model.decoder.embed_tokens",
        tied=True,
        feed_forward=FeedForward(("fc1",), "fc2", "ffn_dim"),
    ),
    "falcon": Architecture(
        "FalconForCausalLM",
        _falcon,
        feed_forward=_wide("ffn_hidden_size"),
        blocks="transformer.h",
        embedding="transformer.word_embeddings",
        tied=True,
        returns_tuple=True,
    ),
    "bloom": Architecture(
        "BloomForCausalLM",
        _always(*_fused("self_attention")),
        feed_forward=_wide(None),
        blocks="transformer.h",
        embedding="transformer.word_embeddings",
        tied=True,
        returns_tuple=True,
    ),
}
