"""How the decoder blocks of an architecture are found, pruned and shrunk: what a row of the table consists of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

Groups = tuple[tuple[str, ...], ...]
Config = Mapping[str, Any]
Shapes = dict[str, tuple[int, ...]]

MAX_EXPERTS = 4096


@dataclass(frozen=True)
class FeedForward:
    """The feed-forward layers of a block, whose channels can be removed.

    In a mixture of experts each expert has its own; `*` in the names stands for the number of an expert.

    Attributes:
        inputs: linear layers that write the channels, relative to the block.
        output: the linear layer that reads them.
        size: the field of the configuration that has their number; None if it has none.
        fused: of how many equal parts, one below the other, each input consists.
        normed: whether what the output layer writes is normalised or scaled before it is added to the hidden states.
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
class Mixture:
    """The experts of a block, which transformers keeps as three-dimensional parameters of one module.

    Attributes:
        layers: names of an expert's gate, up and down projection, or of its up and down projection.
        path: path of the module, relative to the block.
    """

    layers: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    path: str = "mlp.experts"

    @property
    def groups(self) -> Groups:
        """The linear layers of every expert, grouped by input."""
        *inputs, output = (f"{self.path}.*.{name}" for name in self.layers)
        return (tuple(inputs), (output,))


@dataclass(frozen=True)
class Packed:
    """A tensor of the checkpoint that is not one parameter of the model: it holds several, or is transposed.

    Attributes:
        stored: its name, relative to the block.
        holds: the parameters, relative to the block: those of every expert, which are numbered by the first dimension,
            with `*` for the number; or one. Several lie one below the other in the rows of each expert's matrix.
        transposed: whether matrices are stored as inputs × outputs; their parts then lie beside each other.
        interleaved: whether the rows of the parts alternate.
    """

    stored: str
    holds: tuple[str, ...]
    transposed: bool = False
    interleaved: bool = False

    @property
    def of_experts(self) -> bool:
        """Whether its first dimension is the number of an expert."""
        return "*" in self.holds[0]


@dataclass(frozen=True)
class Architecture:
    """How to find and prune the blocks of one architecture.

    A block has those of the named layers that the checkpoint has in it; whether these are the ones that the
    configuration asks for is checked by `shapes`.

    Attributes:
        class_name: the causal language model's class in transformers, as `config.architectures` names it.
        groups: the linear layers of a block that are pruned, relative to the block: each inner tuple shares one input,
            in the order in which a block runs them. `*` stands for the number of an expert. Where the configuration
            decides who shares an input, a function of it.
        shapes: maps transformers' configuration and a block's number to the shape of every parameter and stored buffer
            of the block, by its name in transformers' model, relative to the block.
        outer: the same for what is outside blocks, embedding and head, relative to the base model.
        blocks: module path of the list of decoder blocks.
        embedding: module path of the token embedding.
        tied: whether the head is the embedding where the configuration does not say.
        head_bias: whether the head has a bias.
        excluded: names, in the checkpoint, of a block's tensors with two or more dimensions that are left unchanged.
        renamed: (part of a module path, what the checkpoint has instead).
        packed: tensors that hold several parameters, or hold one transposed.
        unread: names, relative to a block, of tensors that some checkpoints have and no loader reads.
        base: transformers' class without a head, where its name does not follow from `class_name`.
        mixture: the experts, in architectures that have any.
        feed_forward: the feed-forward layers, where all blocks have the same; in a mixture, those of the experts.
        attention: the attention, where heads can be removed: the configuration can say how wide a head is, and each
            head's queries and keys are normalised by themselves if at all.
        layer_types: the kinds of blocks that `layer_types` of the configuration may name.
        per_block: fields of the configuration that are lists with an entry for each block.
        fixed_depth: whether what a block is follows from its number by a rule, so that none can be removed.
        partly_rotary: whether a part of each head may be rotated where the rotation is scaled; other classes ignore
            the factor or fail.
        whole_heads: whether the number of heads must divide the hidden size, whatever `head_dim` says.
        square_output: whether all heads together must be as wide as the hidden states, whatever `head_dim` says.
        rotary_keys: rotary parameters without which a block cannot run.
        learnt_activations: activations with parameters of their own, which the checkpoint holds, that may be named.
        returns_tuple: whether a block returns a tuple whose first item is the hidden states.
    """

    class_name: str
    groups: Groups | Callable[[Config], Groups]
    shapes: Callable[[Any, int], Shapes]
    outer: Callable[[Any], Shapes]
    blocks: str = "model.layers"
    embedding: str = "model.embed_tokens"
    tied: bool = False
    head_bias: bool = False
    excluded: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    packed: tuple[Packed, ...] = ()
    mixture: Mixture | None = None
    feed_forward: FeedForward | None = None
    attention: Attention | None = None
    layer_types: tuple[str, ...] = ("full_attention", "sliding_attention")
    per_block: tuple[str, ...] = ("layer_types",)
    fixed_depth: bool = False
    partly_rotary: bool = False
    whole_heads: bool = False
    square_output: bool = False
    rotary_keys: tuple[str, ...] = ()
    learnt_activations: tuple[str, ...] = ()
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
        return self.base or self.class_name.replace("ForCausalLM", "Model").replace("LMHeadModel", "Model")

    def groups_of(self, config: Config) -> Groups:
        """The groups, with `*` for the number of an expert."""
        return self.groups(config) if callable(self.groups) else self.groups
