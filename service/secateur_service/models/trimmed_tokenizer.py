"""Rewrites the files that contain token ids, for a vocabulary with fewer rows.

Tokens keep their order and get consecutive ids. All ids are updated: in the vocabulary and the merges, the added
tokens, the post-processor, the model's configuration and its generation configuration. Other forms of the tokenizer
are rewritten if they are plain text and left out otherwise, since a server that prefers them would use the old ids.

Imports neither torch nor tokenizers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur_service.models.files import Use, rule_of
from secateur_service.models.token_graph import TokenGraph
from secateur_service.models.wrapping import TOKEN_IDS

VOCAB_MAP = "vocab_map.json"
"""Lists the old id of every token by its new one: for adapters, logit biases and cached tokens."""

_TOKENIZER = "tokenizer.json"
_TOKENIZER_CONFIG = "tokenizer_config.json"
_GENERATION = "generation_config.json"
_SUPPRESSED = ("suppress_tokens", "begin_suppress_tokens")
_TOKEN_SEQUENCES = ("bad_words_ids", "force_words_ids")
_NAMED_SPECIAL = ("additional_special_tokens", "extra_special_tokens")
_SPECIAL_TOKENS = "special_tokens_map.json"


@dataclass(frozen=True)
class TrimmedFiles:
    """The rewritten files of a model.

    Attributes:
        config: content of config.json.
        files: contents of the other rewritten files, by name.
        left_out: files that are not published, each with the reason.
    """

    config: dict[str, Any]
    files: dict[str, bytes]
    left_out: dict[str, str]


def named_tokens(folder: Path, names: Collection[str], config: Mapping[str, Any], graph: TokenGraph) -> set[int]:
    """Ids of the tokens that a model's files refer to, such as those that begin, end or pad texts.

    Args:
        folder: the folder of the files.
        names: their names.
        config: content of config.json.
        graph: the tokens.
    """
    found = {*_ids(config), *_processed_ids(_object(folder / _TOKENIZER))}
    if _GENERATION in names:
        found.update(_ids(_object(folder / _GENERATION)))
    for name in (_TOKENIZER_CONFIG, _SPECIAL_TOKENS):
        if name in names:
            found |= {graph.ids[token] for token in _named(_object(folder / name)) if token in graph.ids}
    return {number for number in found if number >= 0}


def trim_files(
    folder: Path, names: Collection[str], config: Mapping[str, Any], kept: Sequence[int], rows: int
) -> TrimmedFiles:
    """Rewrite the files.

    Args:
        folder: the folder of the files.
        names: the names of the published ones.
        config: content of config.json.
        kept: ids of the rows to keep, in order.
        rows: number of rows in the dense model.
    """
    content = _object(folder / _TOKENIZER)
    # Tokens without a row, such as Gemma's for images, follow those that have one.
    beyond = sorted(number for number in TokenGraph.read(content).tokens if number >= rows)
    new = {old: number for number, old in enumerate([*kept, *beyond])}
    files = {
        _TOKENIZER: _json(_trimmed(content, new)),
        VOCAB_MAP: _json({"format": 1, "rows_before": rows, "old_ids": list(kept)}),
    }
    left_out: dict[str, str] = {}
    surviving = {token for token, _ in _vocabulary(content["model"], new)}
    for name in names:
        if name == _TOKENIZER_CONFIG:
            files[name] = _json(_with_added(_object(folder / name), new))
        elif name == _GENERATION:
            files[name] = _json(_renumbered(_object(folder / name), new, {}))
        elif name in ("added_tokens.json", "vocab.json", "merges.txt"):
            try:
                files[name] = _other_form(folder / name, new, surviving)
            except (ValueError, TypeError, AttributeError):  # nothing has validated it yet
                left_out[name] = "malformed"
        elif _is_other_form(name):
            left_out[name] = "another form of the tokenizer, with the whole vocabulary"
    return TrimmedFiles(_renumbered(config, new, {rows: len(kept)}), files, left_out)


def _trimmed(content: Mapping[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
    """The content of tokenizer.json."""
    model = dict(content["model"])
    vocabulary = _vocabulary(model, new)
    if model["type"] == "Unigram":
        scores = dict(model["vocab"])
        model["vocab"] = [[token, scores[token]] for token, _ in vocabulary]
        if model.get("unk_id") is not None:
            model["unk_id"] = new[model["unk_id"]]
    else:
        model["vocab"] = dict(vocabulary)
        kept = model["vocab"].keys()
        model["merges"] = [
            pair
            for pair, (left, right) in zip(model["merges"], TokenGraph.read(content).merges, strict=True)
            if left in kept and right in kept and left + right in kept
        ]
    added = [{**entry, "id": new[entry["id"]]} for entry in content.get("added_tokens") or () if entry["id"] in new]
    padding = content.get("padding")
    return {
        **content,
        "added_tokens": added,
        "post_processor": _processor(content.get("post_processor"), new),
        "padding": padding and {**padding, "pad_id": new.get(padding["pad_id"], padding["pad_id"])},
        "model": model,
    }


def _vocabulary(model: Mapping[str, Any], new: Mapping[int, int]) -> list[tuple[str, int]]:
    """The tokens of the model that stay, with their new ids, in order."""
    if model["type"] == "Unigram":
        numbered = [(piece, at) for at, (piece, _) in enumerate(model["vocab"])]
    else:
        numbered = list(model["vocab"].items())
    return sorted(((token, new[number]) for token, number in numbered if number in new), key=lambda pair: pair[1])


def _processor(step: Any, new: Mapping[int, int]) -> Any:
    """A post-processor with new ids."""
    if not isinstance(step, dict):
        return step
    step = dict(step)
    if "processors" in step:
        step["processors"] = [_processor(inner, new) for inner in step["processors"]]
    if isinstance(step.get("special_tokens"), dict):
        step["special_tokens"] = {
            name: {**token, "ids": [new[number] for number in token["ids"]]}
            for name, token in step["special_tokens"].items()
            if all(number in new for number in token["ids"])  # other entries cannot be in use
        }
    for end in ("sep", "cls"):
        if isinstance(step.get(end), list):
            token, number = step[end]
            step[end] = [token, new.get(number, number)]
    return step


def _processed_ids(content: Mapping[str, Any]) -> Iterator[int]:
    """The ids that a tokenizer's post-processor and padding add to texts."""
    steps = [content.get("post_processor")]
    while steps:
        step = steps.pop()
        if isinstance(step, dict):
            steps += step.get("processors") or ()
            for token in (step.get("special_tokens") or {}).values():
                yield from token["ids"]
            yield from (step[end][1] for end in ("sep", "cls") if isinstance(step.get(end), list))
    padding = content.get("padding")
    if isinstance(padding, dict):
        yield padding["pad_id"]


def _with_added(content: Mapping[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
    """The content of tokenizer_config.json."""
    added = content.get("added_tokens_decoder")
    if not isinstance(added, dict):
        return dict(content)
    renumbered = {str(new[int(number)]): token for number, token in added.items() if int(number) in new}
    return {**content, "added_tokens_decoder": renumbered}


def _ids(content: Any) -> Iterator[int]:
    """The ids that a configuration refers to, except those that it only suppresses."""
    for key, value in content.items() if isinstance(content, dict) else ():
        if TOKEN_IDS.search(key):
            yield from (number for number in _flat(value) if type(number) is int)
        elif key in _TOKEN_SEQUENCES or key == "forced_decoder_ids":
            yield from _sequence_ids(key, value)
        elif isinstance(value, dict):
            yield from _ids(value)


def _renumbered(content: Mapping[str, Any], new: Mapping[int, int], sizes: Mapping[int, int]) -> dict[str, Any]:
    """A configuration with new ids.

    Args:
        content: the configuration, or a part of it.
        new: new ids by old ones.
        sizes: new sizes of the vocabulary by old ones.
    """

    def changed(key: str, value: Any) -> Any:
        if TOKEN_IDS.search(key):
            return _mapped(value, lambda number: new.get(number, number))
        if key in _SUPPRESSED and isinstance(value, list):
            return [new[number] for number in value if number in new]
        if key in _TOKEN_SEQUENCES:
            return _mapped(value, lambda number: new.get(number, number))
        if key == "sequence_bias":
            return _biases(value, new)
        if key == "forced_decoder_ids" and isinstance(value, list):
            return [[place, new.get(number, number)] for place, number in value]
        if key.startswith("vocab_size"):
            return sizes.get(value, value) if type(value) is int else value
        return _renumbered(value, new, sizes) if isinstance(value, dict) else value

    return {key: changed(key, value) for key, value in content.items()}


def _biases(value: Any, new: Mapping[int, int]) -> Any:
    """Biases of token sequences, as pairs or keyed by the sequence's JSON; those of removed tokens are dropped."""
    if isinstance(value, dict):
        kept = _biases([[json.loads(text), bias] for text, bias in value.items()], new)
        return {json.dumps(ids): bias for ids, bias in kept}
    if not isinstance(value, list):
        return value
    return [[[new[number] for number in ids], bias] for ids, bias in value if all(number in new for number in ids)]


def _sequence_ids(key: str, value: Any) -> Iterator[int]:
    if key == "forced_decoder_ids":
        value = [pair[1:] for pair in value if isinstance(pair, list)] if isinstance(value, list) else []
    yield from (number for number in _flat(value) if type(number) is int)


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for inner in value:
            yield from _flat(inner)
    else:
        yield value


def _mapped(value: Any, function: Callable[[int], int]) -> Any:
    if isinstance(value, list):
        return [_mapped(inner, function) for inner in value]
    return function(value) if type(value) is int else value


def _named(content: Mapping[str, Any]) -> Iterator[str]:
    """The special tokens that a tokenizer's configuration names."""
    for key, value in content.items():
        values: list[Any] = []
        if key.endswith("_token"):
            values = [value]
        elif key in _NAMED_SPECIAL:
            values = list(value.values()) if isinstance(value, dict) else list(value or ())
        for token in values:
            text = token.get("content") if isinstance(token, dict) else token
            if isinstance(text, str):
                yield text


def _other_form(path: Path, new: Mapping[int, int], surviving: Collection[str]) -> bytes:
    """The content of a file with a part of the tokenizer."""
    if path.name == "merges.txt":
        lines = path.read_text(encoding="utf-8").splitlines()
        return "".join(f"{line}\n" for line in lines if _survives(line, surviving)).encode()
    return _json({token: new[number] for token, number in _object(path).items() if number in new})


def _survives(line: str, tokens: Collection[str]) -> bool:
    """Whether to keep a line of merges.txt."""
    left, _, right = line.partition(" ")
    return line.startswith("#version") or (left in tokens and right in tokens and left + right in tokens)


def _is_other_form(name: str) -> bool:
    """Whether a file is a form of the tokenizer that is not rewritten here."""
    if name in (_TOKENIZER, _SPECIAL_TOKENS):
        return False
    return (
        name == "tekken.json"
        or name.endswith((".model", ".tiktoken", "vocab.txt"))
        or ".model.v" in name
        or (rule_of(name).use is Use.TOKENIZER and name.startswith("tokenizer."))
    )


def _object(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_bytes())
    return content


def _json(content: object) -> bytes:
    return (json.dumps(content, ensure_ascii=False) + "\n").encode()
