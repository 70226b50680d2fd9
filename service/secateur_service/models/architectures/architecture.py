"""How the decoder blocks of an architecture are found, pruned and shrunk: what a row of the table consists of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

Groups = tuple[tuple[str, ...], ...]
Config = Mapping[str, Any]
Shapes = dict[str, tuple[int, ...]]

MAX_EXPERTS = 4096
MAX_BLOCKS = 10_000
HEAD = "lm_head"

# Kinds of blocks that carry a state from token to token, besides or instead of keys and values of each.
_RECURRENT = frozenset(("linear_attention", "conv", "hybrid"))
# Kinds of blocks that keep keys and values of every token.
_ATTENDING = frozenset(("full_attention", "sliding_attention", "chunked_attention", "hybrid"))


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
        scaled: whether it takes all tokens for every expert, scaled by the router, and not the router's choice.
        may_lack: whether the configuration may say that there are none.
        switch: the field of the configuration that says whether there are any.
        chosen: the field that says how many a token is routed to.
    """

    layers: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    path: str = "mlp.experts"
    scaled: bool = False
    may_lack: bool = False
    switch: str | None = None
    chosen: str = "num_experts_per_tok"

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
class Wrapper:
    """A multimodal model around a text model: towers encode images, and projectors make them inputs of the text model.

    Attributes:
        class_name: its class in transformers, as `config.architectures` names it.
        base: the class without a head.
        texts: `model_type` of the text models that may lie in it; the first one where its configuration does not say.
        towers: `model_type` of the vision towers that may.
        beside: module paths of everything that is not the text model or the head.
        further: the same of what is there only where the configuration has this part.
        spellings: (how names of some checkpoints begin, how the model's do); the first that fits counts.
        shapes: maps transformers' configuration to the shape of every parameter and stored buffer of what lies beside,
            by its name.
        tied: whether the head is the embedding where neither configuration says so.
        tied_by_text: whether the head is also the embedding where only the text model's configuration says so.
        padded: whether its class needs `pad_token_id` of the text model, whatever the text.
        flat: whether the settings of the text model may stand among the wrapper's.
        fixed_depth: whether the towers refer to blocks of the text model by number.
        text: module path of the text model.
        head: module path of the head. Where the text model's class has it, that one's configuration alone says whether
            it is the embedding.
    """

    class_name: str
    base: str
    texts: tuple[str, ...]
    towers: tuple[str, ...]
    beside: tuple[str, ...]
    spellings: tuple[tuple[str, str], ...]
    shapes: Callable[[Any], Shapes]
    further: tuple[tuple[str, tuple[str, ...]], ...] = ()
    tied: bool = False
    tied_by_text: bool = False
    padded: bool = False
    flat: bool = False
    fixed_depth: bool = False
    text: str = "model.language_model"
    head: str = HEAD

    @property
    def head_is_of_text(self) -> bool:
        """Whether the text model in it is one with a head."""
        return self.head != HEAD

    def beside_in(self, config: Config) -> tuple[str, ...]:
        """Module paths of what lies beside the text model and its head in a model of this configuration."""
        found = (paths for part, paths in self.further if isinstance(config.get(part), dict))
        return (*self.beside, *(path for paths in found for path in paths))

    def around(self, row: Architecture) -> Architecture:
        """The row of a text model that lies in it."""
        blocks, embedding = (path.removeprefix(row.base_prefix) for path in (row.blocks, row.embedding))
        return replace(
            row,
            class_name=self.class_name,
            base=self.base,
            blocks=f"{self.text}.{blocks}",
            embedding=f"{self.text}.{embedding}",
            head=self.head,
            fixed_depth=row.fixed_depth or self.fixed_depth,
            spellings=self.spellings,
            left_out=tuple(prefix for prefix in row.left_out if not prefix.startswith(self.beside)),
            wrapper=self,
        )


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
        head: module path of the linear layer that maps hidden states to the vocabulary.
        tied: whether the head is the embedding where the configuration does not say.
        never_tied: whether transformers' class always has a head of its own, whatever the configuration says.
        head_bias: whether the head has a bias, or the field of the configuration that says so.
        excluded: names, in the checkpoint, of a block's tensors with two or more dimensions that are left unchanged.
        renamed: (part of a module path, what the checkpoint has instead).
        spellings: (how names of some checkpoints begin, how the model's do); the first that fits counts.
        packed: tensors that hold several parameters, or hold one transposed.
        published: the class that checkpoints name which were published with code of their own, where it is not
            `class_name`.
        unread: names, relative to a block, of tensors that some checkpoints have and no loader reads.
        left_out: how names of tensors begin that some checkpoints have for other purposes, such as predicting tokens
            after the next one, and that transformers' class does not read.
        outer_buffers: whether buffers of blocks that no checkpoint stores are initialised with the base model.
        base: transformers' class without a head, where its name does not follow from `class_name`.
        loads_base: whether the class with a head also loads what the class without one has saved.
        mixture: the experts, in architectures that have any.
        feed_forward: the feed-forward layers, where all blocks have the same; in a mixture, those of the experts.
        attention: the attention, where heads can be removed: the configuration can say how wide a head is, and each
            head's queries and keys are normalised by themselves if at all.
        layer_types: the kinds of blocks that `layer_types` of the configuration may name.
        per_block: fields of the configuration that are lists with an entry for each block, or strings with a letter
            for each, which say the same.
        required: fields of the configuration without which transformers' class fails although it does not ask for them.
        fixed_depth: whether what a block is follows from its number by a rule, so that none can be removed.
        varying: fields of the configuration that may have other values in blocks of another kind (`per_layer_config`).
        last_kind: the kind that transformers makes of the last block, whatever `layer_types` says.
        excepted: which checkpoints of the type cannot be pruned, in words; `support.obstacles` tells them.
        numbered: switches of the configuration that make it so.
        partly_rotary: whether a part of each head may be rotated where the rotation is scaled; other classes ignore
            the factor or fail.
        rotated_whole: whether the class fails with a rotation of a part of each head, whatever kind of rotation it is.
        predicts_ahead: whether checkpoints may have further blocks, numbered after the others, that predict tokens
            after the next one: `num_nextn_predict_layers` in the configuration. They are left out.
        whole_heads: whether the heads share the hidden size equally; another `head_dim` is refused.
        scanned: how many numbers in float32 a layer that carries a state holds for each token while it runs, without
            kernels made for it; measured with transformers' modules.
        recurrence: floating-point operations for each token of a layer that carries a state, besides those of its
            linear layers.
        rotary_keys: rotary parameters without which a block cannot run.
        learnt_activations: activations with parameters of their own, which the checkpoint holds, that may be named.
        returns_tuple: whether a block returns a tuple whose first item is the hidden states.
        wrapper: the multimodal model that the text model lies in; None if it is by itself.
    """

    class_name: str
    groups: Groups | Callable[[Config], Groups]
    shapes: Callable[[Any, int], Shapes]
    outer: Callable[[Any], Shapes]
    blocks: str = "model.layers"
    embedding: str = "model.embed_tokens"
    head: str = HEAD
    tied: bool = False
    never_tied: bool = False
    head_bias: bool | str = False
    excluded: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    spellings: tuple[tuple[str, str], ...] = ()
    packed: tuple[Packed, ...] = ()
    mixture: Mixture | None = None
    feed_forward: FeedForward | None = None
    attention: Attention | None = None
    layer_types: tuple[str, ...] = ("full_attention", "sliding_attention")
    per_block: tuple[str, ...] = ("layer_types",)
    required: tuple[str, ...] = ()
    fixed_depth: bool = False
    varying: tuple[str, ...] = ()
    last_kind: str | None = None
    excepted: str = ""
    numbered: tuple[str, ...] = ()
    partly_rotary: bool = False
    rotated_whole: bool = False
    predicts_ahead: bool = False
    whole_heads: bool = False
    scanned: Callable[[Any], int] = lambda _config: 0
    recurrence: Callable[[Any], float] = lambda _config: 0.0
    rotary_keys: tuple[str, ...] = ()
    learnt_activations: tuple[str, ...] = ()
    returns_tuple: bool = False
    published: str | None = None
    unread: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    outer_buffers: bool = False
    base: str | None = None
    loads_base: bool = True
    wrapper: Wrapper | None = None

    @cached_property
    def base_prefix(self) -> str:
        """The prefix of the base model's names; some checkpoints omit it."""
        return (self.wrapper.text if self.wrapper else self.blocks.partition(".")[0]) + "."

    def model_name(self, stored: str) -> str:
        """The name in the model of a tensor of the checkpoint, as far as its beginning goes."""
        for prefix, own in self.spellings:
            if stored.startswith(prefix):
                return own + stored.removeprefix(prefix)
        return stored

    @property
    def is_recurrent(self) -> bool:
        """Whether blocks may carry a state from token to token, which no cache of keys and values has."""
        return bool(_RECURRENT & {*self.layer_types})

    def carries(self, kind: str) -> bool:
        """Whether a block of this kind carries a state from token to token."""
        return kind in _RECURRENT

    def attends(self, kind: str) -> bool:
        """Whether a block of this kind keeps keys and values of every token."""
        return kind in _ATTENDING

    @property
    def base_class(self) -> str:
        """The transformers class of the model without its head."""
        return self.base or self.class_name.replace("ForCausalLM", "Model").replace("LMHeadModel", "Model")

    @property
    def axes(self) -> tuple[str, ...]:
        """What `shrink` can remove of such models; the sizes of one may leave less."""
        able = {
            "vocabulary": True,
            "blocks": not self.fixed_depth,
            "kv_heads": self.attention is not None,
            "feed_forward": self.feed_forward is not None and self.feed_forward.size is not None,
        }
        return tuple(axis for axis, is_able in able.items() if is_able)

    def biases_head(self, config: Config) -> bool:
        """Whether the head of a model of this configuration has a bias."""
        return bool(config.get(self.head_bias) if isinstance(self.head_bias, str) else self.head_bias)

    def groups_of(self, config: Config) -> Groups:
        """The groups, with `*` for the number of an expert."""
        return self.groups(config) if callable(self.groups) else self.groups
