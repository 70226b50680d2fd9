"""What the decoder blocks of each supported architecture are made of.

One row per `model_type` of transformers. A row names the linear layers that are pruned, grouped by the input they
share and in the order in which a block runs them, so that statistics are gathered once per distinct input. Whatever
else in a block has two or more dimensions must be listed as excluded; a matrix that nobody claimed refuses the model.
The groups are verified while the first batch runs.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """How to find and prune the blocks of one architecture.

    Attributes:
        class_name: the causal language model's class in transformers, as `config.architectures` names it.
        blocks: module path of the list of decoder blocks.
        inputs: names of the pruned linear layers below a block; each inner tuple shares one input.
        excluded: names of parameters with two or more dimensions that stay as they are.
        returns_tuple: whether a block returns a tuple whose first item is the hidden states.
    """

    class_name: str
    blocks: str
    inputs: tuple[tuple[str, ...], ...]
    excluded: tuple[str, ...] = ()
    returns_tuple: bool = False

    @property
    def linears(self) -> tuple[str, ...]:
        """All pruned linear layers of a block."""
        return tuple(name for group in self.inputs for name in group)


_LLAMA_INPUTS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("LlamaForCausalLM", "model.layers", _LLAMA_INPUTS),
    "mistral": Architecture("MistralForCausalLM", "model.layers", _LLAMA_INPUTS),
    "qwen2": Architecture("Qwen2ForCausalLM", "model.layers", _LLAMA_INPUTS),
    "qwen3": Architecture("Qwen3ForCausalLM", "model.layers", _LLAMA_INPUTS),
    "gemma2": Architecture("Gemma2ForCausalLM", "model.layers", _LLAMA_INPUTS),
    "cohere": Architecture(
        "CohereForCausalLM",
        "model.layers",
        # Attention and feed-forward run in parallel on one normalised input.
        (
            ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"),
            ("self_attn.o_proj",),
            ("mlp.down_proj",),
        ),
        excluded=("self_attn.q_norm.weight", "self_attn.k_norm.weight"),
    ),
    "bloom": Architecture(
        "BloomForCausalLM",
        "transformer.h",
        (
            ("self_attention.query_key_value",),
            ("self_attention.dense",),
            ("mlp.dense_h_to_4h",),
            ("mlp.dense_4h_to_h",),
        ),
        returns_tuple=True,
    ),
}
