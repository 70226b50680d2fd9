"""The configuration of a text model inside that of a multimodal model, and back; and what lies beside it.

config.json of such a model has the text model's settings in `text_config`, often only those that differ from the
defaults of transformers' class; some older ones have them at the top. Needs no torch, and transformers only for
defaults.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from secateur_service.models.architectures import Architecture, Wrapper
from secateur_service.models.weights import ModelRefusedError

TOKEN_IDS = re.compile(r"(^|_)token_(id|ids|index)$")
"""Keys of a configuration that hold ids of tokens."""

_TIED = "tie_word_embeddings"
# What is read of a text model's configuration without transformers.
_NEEDED = re.compile(
    r"vocab_size|hidden_size|num_hidden_layers|max_position_embeddings|num_experts_per_tok|tie_word_embeddings"
)
_ROTARY = ("rope_theta", "rope_scaling", "rope_parameters", "head_dim")


def text_settings(config: Mapping[str, Any], wrapper: Wrapper, *, has_head: bool) -> dict[str, Any]:
    """The configuration of the text model as transformers' class reads it, with the defaults that matter.

    Where nothing says whether the head is the embedding, a stored head says that it is not, whatever the default.

    Args:
        config: the content of config.json.
        wrapper: the multimodal model.
        has_head: whether the checkpoint stores a head.

    Raises:
        ModelRefusedError: there is no such configuration, or it is that of another model.
    """
    inner = _stated(config, wrapper)
    kind = text_type(config, wrapper)
    settings = {**_defaults(kind, _NEEDED.fullmatch), **inner, "model_type": kind}
    told = config.get(_TIED, inner.get(_TIED) if wrapper.tied_by_text else None)
    if wrapper.head_is_of_text:
        tied = bool(settings.get(_TIED))
    elif wrapper.tied_by_text:
        tied = bool(told) or bool(settings.get(_TIED))
    else:
        tied = wrapper.tied and not has_head if told is None else bool(told)
    return {**settings, _TIED: tied}


def text_type(config: Mapping[str, Any], wrapper: Wrapper) -> str:
    """The `model_type` of the text model.

    Raises:
        ModelRefusedError: no text model of that type can lie in the wrapper.
    """
    found = wrapper.texts[0] if _is_flat(config, wrapper) else _stated(config, wrapper).get("model_type")
    if found is None:
        return wrapper.texts[0]
    if found not in wrapper.texts:
        known = ", ".join(wrapper.texts)
        raise ModelRefusedError(
            f"config.json: text_config.model_type is {found!r}, which is not supported in a "
            f"{wrapper.class_name}; supported are {known}"
        )
    return str(found)


def with_text(config: Mapping[str, Any], wrapper: Wrapper, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a config.json with other settings of the text model, in the place where it has them.

    Settings that it repeats at the top change there too.

    Args:
        config: the content of config.json.
        wrapper: the multimodal model.
        settings: all settings of the text model; those that are missing are removed.
    """
    before = _stated(config, wrapper)
    gone = before.keys() - settings.keys()
    if _is_flat(config, wrapper):
        plain = {key: value for key, value in settings.items() if key != "model_type"}
        return {**{key: value for key, value in config.items() if key not in gone}, **plain}
    repeated = {key for key in config.keys() & before.keys() if config[key] == before[key]}
    kept = {key: value for key, value in config.items() if key not in repeated & gone}
    return {**kept, **{key: settings[key] for key in repeated - gone}, "text_config": dict(settings)}


def with_token_ids(config: Mapping[str, Any], wrapper: Wrapper, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a config.json that names every token, also those that only the classes' defaults do.

    Args:
        config: the content of config.json.
        wrapper: the multimodal model.
        settings: the settings of its text model.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = str(config["model_type"])
    aliases = CONFIG_MAPPING[kind].attribute_map
    defaults = {
        key: value
        for key, value in _defaults(kind, TOKEN_IDS.search).items()
        if not any(own == key and alias in config for alias, own in aliases.items())
    }
    text = {**_defaults(str(settings["model_type"]), TOKEN_IDS.search), **settings}
    return with_text({**defaults, **config}, wrapper, text)


def check_beside(
    config: Mapping[str, Any],
    architecture: Architecture,
    names: Iterable[str],
    lacking: Callable[[str], ModelRefusedError],
) -> None:
    """Check that a multimodal model has its towers, as far as their names tell without its class.

    Args:
        config: the content of config.json.
        architecture: the row of the text model in it.
        names: the names of its tensors.
        lacking: a refusal because nothing is there of a module, by its path.

    Raises:
        ModelRefusedError: a tower is missing or unknown, or a tensor belongs to nothing in the model.
    """
    wrapper, model_type = architecture.wrapper, config["model_type"]
    assert wrapper is not None
    tower = config.get("vision_config")
    kind = tower.get("model_type", wrapper.towers[0]) if isinstance(tower, dict) else None
    if kind not in wrapper.towers:
        found = f"vision_config.model_type is {kind!r}" if isinstance(tower, dict) else "vision_config is missing"
        known = ", ".join(wrapper.towers)
        raise ModelRefusedError(f"config.json: {found}; supported in a {model_type} model are {known}")
    own = {architecture.model_name(name): name for name in names}
    beside = wrapper.beside_in(config)
    for path in beside:
        if not any(name.startswith(f"{path}.") for name in own):
            raise lacking(path)
    known_paths = tuple(f"{path}." for path in (*beside, wrapper.text, wrapper.head))
    for name, stored in own.items():
        if not name.startswith(known_paths):
            raise ModelRefusedError(f"{stored} is a tensor that a {model_type} model does not have")


def _is_flat(config: Mapping[str, Any], wrapper: Wrapper) -> bool:
    return wrapper.flat and config.get("text_config") is None


def _stated(config: Mapping[str, Any], wrapper: Wrapper) -> dict[str, Any]:
    """What config.json says of the text model."""
    if _is_flat(config, wrapper):
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        fields = {field.name for field in dataclasses.fields(CONFIG_MAPPING[wrapper.texts[0]])}
        return {key: value for key, value in config.items() if key in {*fields, *_ROTARY} - {"architectures"}}
    inner = config.get("text_config")
    if not isinstance(inner, dict):
        raise ModelRefusedError(
            f"config.json: text_config is missing or no object; a {wrapper.class_name} has the settings of its text "
            "model there"
        )
    return inner


def _defaults(model_type: str, is_wanted: Callable[[str], Any]) -> dict[str, Any]:
    """The numbers that transformers' class of a configuration assumes for keys that are missing."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    fields = dataclasses.fields(CONFIG_MAPPING[model_type])
    return {field.name: field.default for field in fields if is_wanted(field.name) and isinstance(field.default, int)}
