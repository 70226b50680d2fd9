"""A model's config.json as transformers reads it, or a refusal that names the key, its value and what is allowed.

transformers' classes validate most of a configuration, but not all: what they let through (names of activations,
negative sizes, rotary parameters that only cause a warning) fails later, in the middle of a model. The rules here close
that gap. They need transformers but not torch, so that they can run where torch is not installed.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from secateur_service.models.architectures import MAX_BLOCKS, MAX_EXPERTS, ROWS
from secateur_service.models.checkpoint import BLOCKS, Checkpoint, ModelRefusedError
from secateur_service.models.multimodal import check_made, check_stated
from secateur_service.models.refusals import FILE as _FILE
from secateur_service.models.refusals import refused as _refused
from secateur_service.models.refusals import refused_by_class

_LARGEST_SIZE = 2**31 - 1
_MOST_LABELS = 100_000
_LARGEST_NUMBER = 2**63 - 1
_INFINITE = {"__float__": "Infinity"}  # as transformers writes it
# Keys whose numbers may be infinite.
_UNLIMITED = ("time_step_limit",)

ACTIVATIONS = frozenset(
    [
        *["gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh", "mish"],
        *["gelu_pytorch_tanh", "hardswish", "laplace", "leaky_relu", "linear", "quick_gelu", "relu", "relu2", "relu6"],
        *["sigmoid", "silu", "sqrtsoftplus", "swish", "tanh"],
    ]
)
"""Those of transformers' `ACT2FN` without parameters of their own, which no checkpoint of ours would hold."""

ROPE_TYPES = frozenset(("default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional"))
"""Those of transformers' `ROPE_INIT_FUNCTIONS`, and the default."""

_CHOICES = frozenset(("greedy", "group_limited_greedy"))
"""How DeepSeek V2 chooses experts."""

_DTYPES = frozenset(("auto", "float64", "float32", "float16", "bfloat16"))

Accepts = Callable[[Any], bool]


def _whole(low: int, high: int) -> Accepts:
    return lambda value: type(value) is int and low <= value <= high


def _number(accepts: Callable[[float], bool]) -> Accepts:
    return lambda value: type(value) in (int, float) and abs(value) <= _LARGEST_NUMBER and accepts(value)


def _nullable(accepts: Accepts) -> Accepts:
    return lambda value: value is None or accepts(value)


def _listed(names: frozenset[str]) -> Accepts:
    return lambda value: isinstance(value, str) and value in names


def _truth(value: Any) -> bool:
    return isinstance(value, bool)


def _all(accepts: Accepts) -> Accepts:
    return lambda value: isinstance(value, list) and all(map(accepts, value))


def _numbers(count: int) -> Accepts:
    return lambda value: isinstance(value, list) and len(value) == count and all(map(_number(lambda _: True), value))


def _wholes(count: int) -> Accepts:
    return lambda value: _numbers(count)(value) and all(map(_whole(0, _LARGEST_SIZE), value))


def _is_range(value: Any) -> bool:
    """Whether it is a least and a largest number; the latter may be infinite."""
    limits = [math.inf if limit == _INFINITE else limit for limit in value] if isinstance(value, list) else []
    numbers = all(type(limit) in (int, float) for limit in limits)
    return numbers and len(limits) == 2 and 0 <= limits[0] < limits[1] and limits[0] < _LARGEST_NUMBER


def _one_of(names: Iterable[str]) -> str:
    return "one of " + ", ".join(sorted(names))


_SIZE = _whole(1, _LARGEST_SIZE)
_POSITIVE = _number(lambda value: value > 0)
_NOT_NEGATIVE = _number(lambda value: value >= 0)
_SHARE = _number(lambda value: 0 <= value <= 1)

# Keys, what they accept, and the same in words. Types alone are left to transformers' classes.
_SIZES = "|".join(
    [
        *["vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size", "ffn_hidden_size", "ffn_dim"],
        *["head_dim", "word_embed_proj_dim", "n_layer", "n_head", "num_hidden_layers", "num_attention_heads"],
        *["n_embd", "n_inner", "n_positions", "d_model", "num_layers", "attention_heads"],
        *["num_key_value_heads", "num_kv_heads", "num_experts_per_tok", "moe_k", "n_group", "topk_group"],
        *["num_global_key_value_heads", "top_k_experts"],
        *["decoder_sparse_step", "max_position_embeddings", "original_max_position_embeddings"],
        *["pretraining_tp", "kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"],
        *["shared_expert_intermediate_size", "prefix_dense_intermediate_size", "intermediate_size_mlp"],
        *["n_shared_experts", "interleave_moe_layer_step", "no_rope_layer_interval"],
        *["attention_chunk_size", "floor_scale", r"prefix_dense_sliding_window_pattern"],
        *["moe_shared_expert_intermediate_size", "moe_latent_size"],
        *["conv_L_cache", "block_multiple_of", "shared_intermediate_size"],
        *["linear_conv_kernel_dim", "linear_num_key_heads", "linear_num_value_heads"],
        *["linear_key_head_dim", "linear_value_head_dim", "mamba_d_ssm"],
    ]
)
_STATE = (
    r"mamba_(n_heads|n_groups|d_state|d_conv|expand|chunk_size|num_heads|head_dim)|"
    r"ssm_state_size|n_groups|conv_kernel|chunk_size"
)
_KEYS: tuple[tuple[str, Accepts, str], ...] = (
    (_SIZES, _nullable(_SIZE), f"a whole number from 1 to {_LARGEST_SIZE}"),
    (r"sliding_window", _nullable(_whole(0, _LARGEST_SIZE)), f"a whole number from 1 to {_LARGEST_SIZE}"),
    (_STATE, _SIZE, f"a whole number from 1 to {_LARGEST_SIZE}"),
    (
        r"sliding_window_pattern",  # a string says which blocks see a window (L) and which everything (G), in turn
        lambda value: value is None or _SIZE(value) or (isinstance(value, str) and set("LG") >= set(value) > set()),
        f"a whole number from 1 to {_LARGEST_SIZE}, or letters L and G",
    ),
    (r"max_window_layers", _whole(0, _LARGEST_SIZE), "a whole number that is not negative"),
    (r"(?!rms_norm_)\w+_(eps|epsilon)", _NOT_NEGATIVE, "a number that is not negative"),
    (r"rms_norm_eps", _nullable(_NOT_NEGATIVE), "a number that is not negative"),
    (r"initializer_range|init_std|router_aux_loss_coef", _NOT_NEGATIVE, "a number that is not negative"),
    (r"\w+_softcapping", _nullable(_POSITIVE), "a number above 0, or null"),
    (r"query_pre_attn_scalar|rope_theta", _POSITIVE, "a number above 0"),
    (r"(embedding|lm_head|key|residual|attention|\w+_in|\w+_out)_multiplier", _number(lambda _: True), "a number"),
    (r"mlp_multipliers", _nullable(_numbers(2)), "2 numbers, or null"),
    (r"ssm_multipliers", _nullable(_numbers(5)), "5 numbers, or null"),
    (r"logits_scaling", _POSITIVE, "a number above 0"),
    (r"block_ffn_dim_multiplier", _nullable(_POSITIVE), "a number above 0, or null"),
    (r"logit_scale", _nullable(_number(lambda _: True)), "a number"),
    (r"(activation|embedding|hidden|residual)_dropout", _SHARE, "a number from 0 to 1"),
    (r"\w+_pdrop|dropout|layerdrop|router_jitter_noise", _SHARE, "a number from 0 to 1"),
    (r"attention_dropout", _nullable(_SHARE), "a number from 0 to 1, or null"),
    (r"time_step_(min|max|floor)", _POSITIVE, "a number above 0"),
    (
        r"(mamba_|mlp_|projector_)?hidden_act|hidden_activation|activation_function|activation",
        _listed(ACTIVATIONS),
        _one_of(ACTIVATIONS),
    ),
    (r"dtype|torch_dtype", _nullable(_listed(_DTYPES)), _one_of(_DTYPES)),
    (r"output_hidden_states|output_attentions|return_dict|use_cache", _nullable(_truth), "true or false"),
    (r"time_step_limit", _is_range, "two numbers that are not negative, the smaller one first"),
    (r"add_cross_attention", lambda value: value is False, "false, because there is nothing else to attend to"),
    (r"(embedding|residual|attention)_multiplier|logits_scaling", _POSITIVE, "a number above 0"),
    (r"clip_qkv", _nullable(_POSITIVE), "a number above 0, or null"),
    (r"no_rope_layers", _nullable(_all(_whole(0, 1))), "a list of 0 and 1, or null"),
    (r"global_head_dim", _SIZE, f"a whole number from 1 to {_LARGEST_SIZE}"),
    (
        r"use_bidirectional_attention",  # between the places of an image, which text has none of
        lambda value: not value or value == "vision",
        "false, null or vision, for a model of what follows a text",
    ),
    (r"num_ln_in_parallel_attn", _nullable(_whole(1, 2)), "1, 2 or null"),
    (r"mlp_only_layers|moe_layers", _nullable(_all(_whole(0, MAX_BLOCKS))), "a list of numbers of blocks, or null"),
    (r"no_rope_layers", _nullable(_all(_whole(0, 1))), "a list of 0 and 1 for each block, or null"),
    (r"first_k_dense_replace|moe_layer_start_index", _whole(0, MAX_BLOCKS), "a number of blocks"),
    (r"moe_layer_end_index", _whole(-1, MAX_BLOCKS), "the number of a block, or -1 for the last"),
    (r"moe_num_shared_experts|num_shared_experts", _whole(0, MAX_EXPERTS), f"a whole number up to {MAX_EXPERTS}"),
    (r"moe_layer_interval", _whole(1, 1), "1, as in published models"),
    (r"clip_qkv", _nullable(_POSITIVE), "a number above 0, or null"),
    (r"swiglu_limit|routed_scaling_factor|logits_scaling", _POSITIVE, "a number above 0"),
    (r"swiglu_alpha|attn_scale|(embedding|residual|attention)_multiplier", _number(lambda _: True), "a number"),
    (r"moe_norm_min|input_jitter_noise", _NOT_NEGATIVE, "a number that is not negative"),
    (r"topk_method", _listed(_CHOICES), _one_of(_CHOICES)),
    (r"expert_selection_fn", _listed(frozenset(("sigmoid", "softmax"))), "sigmoid or softmax"),
    (r"shared_expert_combination_strategy", _listed(frozenset(("average", "sum"))), "average or sum"),
)
_EXPERTS = "num_local_experts|num_experts|n_routed_experts|moe_num_experts"
# transformers builds lists of these lengths.
_COUNTS: tuple[tuple[str, Accepts, str], ...] = (
    ("|".join([*BLOCKS, "depth"]), _nullable(_whole(1, MAX_BLOCKS)), f"a whole number from 1 to {MAX_BLOCKS}"),
    (_EXPERTS, _nullable(_whole(1, MAX_EXPERTS)), f"a whole number from 1 to {MAX_EXPERTS}"),
    (r"num_labels", _nullable(_whole(0, _MOST_LABELS)), f"a whole number of at most {_MOST_LABELS}"),
)
_RULES = tuple((re.compile(pattern), accepts, expected) for pattern, accepts, expected in (*_COUNTS, *_KEYS))

# For a set of rotary parameters; transformers' classes check which of them a type needs.
_ROPE_KEYS: tuple[tuple[str, Accepts, str], ...] = (
    ("rope_theta", _POSITIVE, "a number above 0"),
    ("partial_rotary_factor", _number(lambda value: 0 < value <= 1), "a number above 0 and at most 1"),
    ("factor", _POSITIVE, "a number above 0"),
    ("low_freq_factor", _POSITIVE, "a number above 0"),
    ("high_freq_factor", _POSITIVE, "a number above 0"),
    ("alpha", _nullable(_POSITIVE), "a number above 0, or null"),
    ("attention_factor", _nullable(_POSITIVE), "a number above 0, or null"),
    ("llama_4_scaling_beta", _NOT_NEGATIVE, "a number that is not negative"),
    ("beta_fast", _nullable(_POSITIVE), "a number above 0, or null"),
    ("beta_slow", _nullable(_POSITIVE), "a number above 0, or null"),
    ("mscale", _nullable(_NOT_NEGATIVE), "a number that is not negative, or null"),
    ("mscale_all_dim", _nullable(_NOT_NEGATIVE), "a number that is not negative, or null"),
    ("short_mscale", _POSITIVE, "a number above 0"),
    ("long_mscale", _POSITIVE, "a number above 0"),
    ("mrope_section", _wholes(3), "3 whole numbers that are not negative"),
    ("truncate", _nullable(_truth), "true or false"),
    ("original_max_position_embeddings", _whole(2, _LARGEST_SIZE), f"a whole number from 2 to {_LARGEST_SIZE}"),
)

# Numbers of which the first is a multiple of the second.
_MULTIPLES = (
    ("linear_num_value_heads", "linear_num_key_heads"),
    ("mamba_n_heads", "mamba_n_groups"),
    ("mamba_num_heads", "n_groups"),
)
# Pairs of a head that turn with time, height and width, where the configuration does not say.
_SECTIONS = {"qwen2_5_vl_text": [16, 24, 24]}

# Keys that transformers reads although its classes do not declare them.
_BESIDE = frozenset(
    [
        *("rope_theta", "torch_dtype", "output_attentions", "head_dim", "num_labels", "first_k_dense_replace"),
        *("global_head_dim", "num_global_key_value_heads"),
    ]
)

# Where transformers looks for the text model of a composite model, in any configuration.
_OF_COMPOSITES = ("text_config", "decoder", "text_encoder", "generator")

# What `Checkpoint.made` has under this name is the configuration object of the text model.
_TEXT = "text"

# Keys that would shadow something that transformers calls or looks up.
_RESERVED = frozenset(("attribute_map", "sub_configs", "sub_configs_defaults", "default_theta"))
_OVERRIDES = "per_layer_config"


def read_configuration(config: Mapping[str, Any], model_type: str) -> Any:
    """The configuration object of transformers, with its defaults, for a model of a supported architecture.

    Args:
        config: the content of config.json.
        model_type: a key of `ROWS`.

    Raises:
        ModelRefusedError: no model can be built with one of the values.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    _check_numbers(config, ())
    kind = CONFIG_MAPPING[model_type]
    fields = {field.name for field in dataclasses.fields(kind)}
    learnt = ROWS[model_type].learnt_activations
    known = fields | _BESIDE | set(kind.attribute_map) | set(kind.attribute_map.values())
    for key, value in config.items():
        if key in _reserved(model_type) or callable(getattr(kind, key, None)):
            raise ModelRefusedError(f"{_FILE}: {key} is not part of a {model_type} configuration; remove it")
        for pattern, accepts, expected in _RULES:
            says_none = _says_none(key, value, model_type)
            is_learnt = key == "hidden_act" and value in learnt
            if key in known and pattern.fullmatch(key) and not (accepts(value) or is_learnt or says_none):
                raise _refused(key, value, expected)
    if "head_dim" in config and config["head_dim"] is None and "head_dim" not in fields:
        raise _refused("head_dim", None, f"a number, or no such key, because {model_type} models have no default")
    _check_overrides(config.get(_OVERRIDES), ROWS[model_type].varying)

    def make(config: Mapping[str, Any]) -> Any:
        return kind.from_dict(kind._decode_special_floats(without_implementations(config)))

    try:
        made = make(config)
    except Exception as error:
        raise refused_by_class(config, error, make) from error
    for key in _OF_COMPOSITES:
        if config.get(key) is not None and key not in fields:
            raise ModelRefusedError(f"{_FILE}: {key} is not part of a {model_type} configuration; remove it")
    for own in _by_kind(made):
        _check_together(own, known)
    for own, path, parameters in _rotary(made):
        _check_rotary(own, path, parameters)
    return made


def _reserved(model_type: str) -> frozenset[str]:
    """Keys that no configuration of this type may have."""
    return _RESERVED if ROWS[model_type].varying else _RESERVED | {_OVERRIDES}


def _check_overrides(overrides: Any, varying: Collection[str]) -> None:
    """Check what a configuration says of single blocks: an object by number, each with sizes that may vary."""
    if overrides is None:
        return
    if not isinstance(overrides, dict):
        raise _refused(_OVERRIDES, overrides, "an object with the numbers of blocks")
    for number, sizes in overrides.items():
        path = f"{_OVERRIDES}.{number}"
        if not (re.fullmatch(r"[0-9]{1,5}", number) and isinstance(sizes, dict) and {*sizes} <= {*varying}):
            raise _refused(path, sizes, f"the number of a block, with {' and '.join(varying)} alone")
        for key, value in sizes.items():
            if not _SIZE(value):
                raise _refused(f"{path}.{key}", value, f"a whole number from 1 to {_LARGEST_SIZE}")


def _by_kind(made: Any) -> list[Any]:
    """The configuration of each kind of blocks where they differ, or the one of all."""
    if not made.is_heterogeneous:
        return [made]
    try:
        return [made.per_layer_config[kind] for kind in sorted(set(made.layer_types))]
    except ValueError as error:
        problem = f"{_OVERRIDES} gives blocks of one kind different sizes"
        raise ModelRefusedError(f"{_FILE}: {problem}; correct it") from error


def _says_none(key: str, value: object, model_type: str) -> bool:
    """Whether it says that a mixture has no experts, which some are made to be."""
    mixture = ROWS[model_type].mixture
    lacks = mixture is not None and mixture.may_lack
    return lacks and key in ("num_local_experts", "num_experts_per_tok") and type(value) is int and value == 0


def text_configuration(checkpoint: Checkpoint) -> Any:
    """The configuration object of a checkpoint's text model: of the model, unless it is a multimodal one.

    It is the caller's to change. It is read and checked once, which takes transformers milliseconds: who plans a model
    asks for it again and again, some for every block.

    Raises:
        ModelRefusedError: no model can be built with one of the values.
    """
    if _TEXT not in checkpoint.made:
        checkpoint.made[_TEXT] = _read_text(checkpoint)
    return copy.deepcopy(checkpoint.made[_TEXT])


def _read_text(checkpoint: Checkpoint) -> Any:
    try:
        made = read_configuration(checkpoint.text_config, checkpoint.text_type)
    except ModelRefusedError as error:
        if checkpoint.text_config is checkpoint.config or checkpoint.config.get("text_config") is None:
            raise
        raise ModelRefusedError(str(error).replace(f"{_FILE}: ", f"{_FILE}: in text_config, ", 1)) from error
    if checkpoint.architecture.wrapper:
        made.tie_word_embeddings = checkpoint.is_tied  # classes of such text models do not know the setting
    return made


def whole_configuration(checkpoint: Checkpoint) -> Any:
    """The configuration object of a checkpoint's model: that of its text model, or of the multimodal one around it.

    Raises:
        ModelRefusedError: no model can be built with one of the values.
    """
    text = text_configuration(checkpoint)
    wrapper = checkpoint.architecture.wrapper
    if wrapper is None:
        return text
    if wrapper.padded and text.pad_token_id is None:
        raise _refused("text_config.pad_token_id", None, f"an id, which {checkpoint.model_type} models need")
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = checkpoint.config
    kind = CONFIG_MAPPING[checkpoint.model_type]
    for key in config:
        if key in {*_RESERVED, _OVERRIDES} or callable(getattr(kind, key, None)):
            raise ModelRefusedError(f"{_FILE}: {key} is not part of a {checkpoint.model_type} configuration; remove it")
    own = {key: config[key] for key in config.keys() & {field.name for field in dataclasses.fields(kind)}}
    parts = {"vision_config": config["vision_config"]}
    for part, _ in wrapper.further:
        if not isinstance(found := config.get(part) or {}, dict):
            raise _refused(part, found, "an object, or null for none")
        parts[part] = found
    for prefix, part in (("", own), *((f"{name}.", part) for name, part in parts.items())):
        for key, value in part.items():
            for pattern, accepts, expected in _RULES:
                if pattern.fullmatch(key) and not accepts(value):
                    raise _refused(f"{prefix}{key}", value, expected)
    check_stated(config)

    def make(config: Mapping[str, Any]) -> Any:
        return kind.from_dict(without_implementations(config))

    try:
        made = make(config)
    except Exception as error:
        raise refused_by_class(config, error, make) from error
    check_made(made, config)
    made.tie_word_embeddings = checkpoint.is_tied
    return made


def without_implementations(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without choices of kernels, which are fetched from a hub or not installed everywhere.

    Args:
        config: the content of a config.json; that of its parts is cleared too.
    """
    return {
        key: without_implementations(value) if key.endswith("_config") and isinstance(value, dict) else value
        for key, value in config.items()
        if not key.endswith("_implementation")
    }


def _check_numbers(value: Any, path: tuple[str, ...]) -> None:
    """Check that every number is within the range that other programs can read."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        unlimited = value == math.inf and path[:1] in [(key,) for key in _UNLIMITED]
        if not unlimited and not (math.isfinite(value) if isinstance(value, float) else abs(value) <= _LARGEST_NUMBER):
            raise _refused(".".join(path), value, "a finite number of ordinary size")
    elif isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            _check_numbers(item, (*path, str(key)))


def _check_together(made: Any, known: Collection[str]) -> None:
    """Check rules between keys of a configuration, using the class's defaults for missing keys."""

    def of(key: str) -> Any:
        return getattr(made, key, None) if key in known else None

    for key in ROWS[made.model_type].required:
        if of(key) is None:
            raise _refused(key, None, f"a number, because {made.model_type} models have no default")
    heads, groups = made.num_attention_heads, of("num_key_value_heads")
    if groups is not None and heads % groups:
        raise _refused("num_key_value_heads", groups, f"a divisor of num_attention_heads, {heads}")
    whole, width = ROWS[made.model_type].whole_heads, of("head_dim")
    if (width is None or whole) and made.hidden_size % heads:
        raise _refused("num_attention_heads", heads, f"a divisor of hidden_size, {made.hidden_size}")
    if whole and width is not None and width * heads != made.hidden_size:
        raise _refused("head_dim", width, f"{made.hidden_size // heads}, hidden_size by num_attention_heads")
    groups = of("num_kv_heads")
    if groups is not None and of("new_decoder_architecture") and (heads % groups or not made.parallel_attn):
        raise _refused("num_kv_heads", groups, f"a divisor of num_attention_heads, {heads}, and parallel_attn true")
    if groups is not None and not of("new_decoder_architecture") and not of("multi_query") and groups != heads:
        raise _refused("num_kv_heads", groups, f"num_attention_heads, {heads}, because multi_query is false")
    if of("num_ln_in_parallel_attn") == 2 and not of("new_decoder_architecture"):
        raise _refused("num_ln_in_parallel_attn", 2, "1 or null, because new_decoder_architecture is false")
    if of("kv_lora_rank") is not None and made.num_key_value_heads != heads:
        raise _refused(
            "num_key_value_heads",
            made.num_key_value_heads,
            f"num_attention_heads, {heads}, because attention is latent",
        )
    if ROWS[made.model_type].mixture is not None:
        _check_experts(made, known)
    for many, few in _MULTIPLES:
        if of(few) is not None and of(many) % of(few):
            raise _refused(many, of(many), f"a multiple of {few}, {of(few)}")
    if ROWS[made.model_type].never_tied and made.tie_word_embeddings:
        value = made.tie_word_embeddings
        raise _refused("tie_word_embeddings", value, f"false, because {made.model_type} models have heads of their own")
    padding = made.pad_token_id
    if padding is not None and not -1 <= padding < made.vocab_size:
        raise _refused("pad_token_id", padding, f"null, or an id below vocab_size, {made.vocab_size}")
    for key in ROWS[made.model_type].per_block:  # also one that only other programs read
        entries = getattr(made, key, None)
        if entries is not None and not (isinstance(entries, list | str) and len(entries) == made.num_hidden_layers):
            raise _refused(key, entries, f"a list of {made.num_hidden_layers}, one for each block")
    kinds = of("layer_types")
    if kinds is not None:
        allowed = ROWS[made.model_type].layer_types
        if not (isinstance(kinds, list) and len(kinds) == made.num_hidden_layers and set(kinds) <= set(allowed)):
            expected = f"{made.num_hidden_layers} times one of {', '.join(allowed)}, one for each block"
            raise _refused("layer_types", kinds, expected)
        if not any(map(ROWS[made.model_type].attends, kinds)):
            raise _refused("layer_types", kinds, "attention in some block, without which transformers keeps no count")
        for kind, key in (("sliding_attention", "sliding_window"), ("chunked_attention", "attention_chunk_size")):
            if kind in kinds and not of(key):
                raise _refused(key, of(key), f"a number of tokens, because layer_types has {kind}")
    if of("sliding_window") == 0 and of("use_sliding_window") is not False:
        raise _refused("sliding_window", 0, "a number of tokens, or null")
    for key, possible in (("no_rope_layers", (0, 1)), ("mlp_layer_types", ("dense", "sparse"))):
        entries = of(key)
        if entries is not None and not (len(entries) == made.num_hidden_layers and {*entries} <= {*possible}):
            raise _refused(key, entries, f"{made.num_hidden_layers} entries, one for each block")


def _check_experts(made: Any, known: Collection[str]) -> None:
    """Check a mixture of experts: how many there are, and how many each token is routed to."""
    mixture = ROWS[made.model_type].mixture
    assert mixture is not None
    if mixture.switch is not None and not getattr(made, mixture.switch):
        return
    count = next(filter(None, (getattr(made, key, None) for key in _EXPERTS.split("|") if key in known)), None)
    if count is None and mixture.may_lack:
        return
    if count is None:
        key = next(key for key in _EXPERTS.split("|") if key in known)
        raise _refused(key, None, f"a whole number from 1 to {MAX_EXPERTS}")
    chosen = getattr(made, mixture.chosen)
    if chosen is None or chosen > count:
        raise _refused(mixture.chosen, chosen, f"at most the number of experts, {count}")
    if "moe_intermediate_size" in known and made.moe_intermediate_size is None:
        raise _refused("moe_intermediate_size", None, f"a whole number from 1 to {_LARGEST_SIZE}")
    groups = getattr(made, "n_group", None) if "n_group" in known else None
    if getattr(made, "topk_method", None) == "greedy":
        return
    if groups is None:
        if "n_group" in known:
            raise _refused("n_group", None, f"a divisor of the number of experts, {count}")
        return
    # The score of a group is the sum of its two best experts'.
    if count % groups or (made.model_type != "deepseek_v2" and count // groups < 2):
        raise _refused("n_group", groups, f"a divisor of the number of experts, {count}, with two or more in a group")
    if made.topk_group is None or made.topk_group > groups:
        raise _refused("topk_group", made.topk_group, f"at most n_group, {groups}")
    if chosen > made.topk_group * (count // groups):
        raise _refused("num_experts_per_tok", chosen, f"at most the experts of topk_group, {made.topk_group}, groups")


def _rotary(made: Any) -> Iterator[tuple[Any, str, dict[str, Any]]]:
    """Every set of rotary parameters, after the configuration of its blocks and its path: one, or one per kind."""
    found = getattr(made, "rope_parameters", None)
    if not found:
        return
    if not isinstance(found, dict):
        raise _refused("rope_parameters", found, "an object")
    nested = [name for name in found if name in ROWS[made.model_type].layer_types]
    for kind in made.layer_types if ROWS[made.model_type].varying else ():
        if kind not in nested:
            raise _refused(f"rope_parameters.{kind}", None, "an object")
    for name in nested:
        if found[name] is None or not isinstance(found[name], dict):
            raise _refused(f"rope_parameters.{name}", found[name], "an object")
        own = made
        if made.is_heterogeneous:
            own = made.per_layer_config[name if name in made.layer_types else made.layer_types[0]]
        yield own, f"rope_parameters.{name}", found[name]
    if not nested:
        yield made, "rope_parameters", found


def _check_rotary(made: Any, path: str, parameters: dict[str, Any]) -> None:
    kind = parameters.get("rope_type", "default")
    if not _listed(ROPE_TYPES)(kind):
        raise _refused(f"{path}.rope_type", kind, _one_of(ROPE_TYPES))
    of_all = getattr(made, "partial_rotary_factor", None)  # some classes copy it into every set, but only when they run
    if of_all is not None:
        parameters = {"partial_rotary_factor": of_all, **parameters}
    for key, accepts, expected in _ROPE_KEYS:
        if key in parameters and not accepts(parameters[key]):
            raise _refused(f"{path}.{key}", parameters[key], expected)
    for key in ROWS[made.model_type].rotary_keys:
        if parameters.get(key) is None:
            raise _refused(f"{path}.{key}", None, "a number")
    if kind == "llama3" and not parameters["low_freq_factor"] < parameters["high_freq_factor"]:
        expected = f"less than high_freq_factor, {parameters['high_freq_factor']}"
        raise _refused(f"{path}.low_freq_factor", parameters["low_freq_factor"], expected)
    part = parameters.get("partial_rotary_factor", 1.0)
    row = ROWS[made.model_type]
    if part != 1 and (row.rotated_whole or (kind != "default" and not row.partly_rotary)):
        expected = f"1 with rope_type {kind}, because transformers rotates whole heads of {made.model_type}"
        raise _refused(f"{path}.partial_rotary_factor", part, expected)
    width = getattr(made, "head_dim", None) or made.hidden_size // made.num_attention_heads
    pairs = int(width * part) // 2
    sections = parameters.get("mrope_section", _SECTIONS.get(made.model_type))
    if sections is not None and not (_all(_SIZE)(sections) and len(sections) == len("thw") and sum(sections) == pairs):
        expected = f"three numbers that add up to {pairs}, the pairs of a head"
        raise _refused(f"{path}.mrope_section", sections, expected)
    for key in ("short_factor", "long_factor") if kind == "longrope" else ():
        factors = parameters.get(key)
        if not (isinstance(factors, list) and len(factors) == pairs and all(map(_POSITIVE, factors))):
            raise _refused(f"{path}.{key}", factors, f"a list of {pairs} numbers above 0, one for each pair of a head")
