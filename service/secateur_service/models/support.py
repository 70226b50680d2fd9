"""Whether models of a type can be pruned, what is done with their blocks, and which supported type is nearest."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from secateur_service.models.architectures import ARCHITECTURES, ROWS, WRAPPERS

_LEAST_LIKENESS = 0.15
_NEARLY_SPELLED = 0.8

# Blocks run one at a time, on hidden states and on arguments that are the same for every batch of a shape. Fields of
# configurations that say that this does not do, and why.
_OBSTACLES = {
    "hidden_size_per_layer_input": "each block also reads an embedding of its own for every token",
    "altup_num_inputs": "blocks hand on several hidden states for each token",
    "num_kv_shared_layers": "the last blocks read keys and values of earlier ones",
}


@dataclass(frozen=True)
class Support:
    """What is known of a type of models.

    Attributes:
        model_type: transformers' `model_type`.
        is_known: whether transformers has it, as far as that was asked.
        class_name: transformers' class, if models of this type can be pruned; otherwise empty.
        layers: names of the linear layers of a block that are pruned; those of a line share an input.
        excluded: names of a block's matrices that stay as they are.
        axes: what `shrink` can remove.
        excepted: which checkpoints of a supported type cannot be pruned, in words; empty if all can.
        nearest: where it is not supported, the supported type that is most like it; empty if none is.
        text_models: of a multimodal type, the text models that may lie in it.
        towers: of a multimodal type, the vision towers that may.
        obstacles: where it is not supported, what of its configuration stands in the way: see `obstacles`.
    """

    model_type: str
    is_known: bool
    class_name: str = ""
    layers: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    axes: tuple[str, ...] = ()
    excepted: str = ""
    nearest: str = ""
    text_models: tuple[str, ...] = ()
    towers: tuple[str, ...] = ()
    obstacles: tuple[str, ...] = ()


def support_of(model_type: str) -> Support:
    """What is known of a type of models; loads transformers' configurations if it is not supported.

    Of a multimodal type with the first of the text models that may lie in it.
    """
    row, wrapper = ARCHITECTURES.get(model_type), WRAPPERS.get(model_type)
    if wrapper is not None:
        row = wrapper.around(ROWS[wrapper.texts[0]])
    if row is not None:
        layers = tuple(", ".join(group) for group in row.groups_of({}))
        return Support(
            model_type,
            is_known=True,
            class_name=row.class_name,
            layers=layers,
            excluded=row.excluded,
            axes=row.axes,
            text_models=wrapper.texts if wrapper else (),
            # A tower may also have the wrapper's own name, as older files do.
            towers=tuple(tower for tower in wrapper.towers if tower != model_type) if wrapper else (),
            excepted=row.excepted,
        )
    found = tuple(obstacles({"model_type": model_type}))
    is_known = _fields(model_type) is not None
    return Support(model_type, is_known=is_known, nearest=nearest(model_type) or "", obstacles=found)


def nearest(model_type: str) -> str | None:
    """The supported type that is most like another; None if none is.

    A name that transformers does not have is a misspelling, or that of a class. Otherwise the configurations decide:
    how many fields two types share of those that either has, without those that all have. So it is a guess at
    relatives, not at what works.
    """
    fields = _fields(model_type)
    if fields is None:
        of_class = [name for name, row in (ARCHITECTURES | WRAPPERS).items() if row.class_name == model_type]
        if of_class:  # of several, the one that the class is named after
            return max(of_class, key=lambda name: difflib.SequenceMatcher(None, name, model_type.lower()).ratio())
        spelled = model_type.lower().replace("-", "_")
        close = difflib.get_close_matches(spelled, [*ARCHITECTURES, *WRAPPERS], n=1, cutoff=_NEARLY_SPELLED)
        return close[0] if close else None
    if "vocab_size" not in fields:  # no model of text
        return None
    others = {name: found for name in ARCHITECTURES if (found := _fields(name)) is not None}
    common = set.intersection(*others.values())
    likeness = {name: _likeness(fields - common, other - common) for name, other in others.items()}
    best = max(likeness, key=lambda name: (likeness[name], difflib.SequenceMatcher(None, name, model_type).ratio()))
    return best if likeness[best] >= _LEAST_LIKENESS else None


def advice(model_type: str) -> str:
    """What to do about a type that is not supported."""
    like = nearest(model_type)
    about = f"the nearest that is, by its configuration: {like}; " if like else ""
    return f"{about}`secateur info --architecture {model_type}` says what it would take"


def obstacles(config: Mapping[str, Any]) -> list[str]:
    """Why blocks of a model cannot be pruned one at a time, as far as its configuration tells.

    Args:
        config: the content of config.json.
    """
    inner = config.get("text_config")
    stated = inner if isinstance(inner, dict) else config
    settings = {**(_defaults(str(config.get("model_type"))) or {}), **stated}
    return [f"{field}: {reason}" for field, reason in _OBSTACLES.items() if settings.get(field)]


def _fields(model_type: str) -> set[str] | None:
    """The fields of a type's configuration, of its text model in a composite one; None if transformers has none."""
    defaults = _defaults(model_type)
    return None if defaults is None else {*defaults}


def _defaults(model_type: str) -> dict[str, Any] | None:
    """The same with what transformers assumes where they are missing."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if model_type not in CONFIG_MAPPING:
        return None
    kind = CONFIG_MAPPING[model_type]
    inner = getattr(kind, "sub_configs", {}).get("text_config")
    of_text = inner if dataclasses.is_dataclass(inner) else kind
    return {field.name: field.default for field in dataclasses.fields(of_text)}


def _likeness(one: Iterable[str], other: Iterable[str]) -> float:
    """Jaccard's index of two sets."""
    return len({*one} & {*other}) / max(1, len({*one} | {*other}))
