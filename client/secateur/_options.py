"""The options of a prune job as flat keywords, and the specification they stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Required, TypeAlias, TypedDict, Unpack

Languages: TypeAlias = Mapping[str, float] | Sequence[str]
"""A mix: languages (BCP 47) with their weights, or languages without."""

Overrides: TypeAlias = Mapping[str, float | str] | Sequence[Mapping[str, Any]]
"""Layers that are treated otherwise than the rest: `{"model.layers.0.*": "dense", "*.down_proj.weight": 0.4}`, or a
list of mappings with `layers` and one of `sparsity`, `pattern` and `dense`. The last that matches a layer holds.
"""


class SpecOptions(TypedDict, total=False):
    """What `prune_spec` and `Client.prune` take beside the model; what is left out takes the service's default.

    Attributes:
        revision: Of a model of the hub: branch, tag or commit.
        corpus: Calibration text: a preset such as `mc4` (the default), or a folder with a file for each language,
            `hf://datasets/org/name@revision`, `s3://bucket/prefix` or `file:///folder`.
        text_field: The name that the text has in JSON objects and parquet tables.
        chat_template: Whether every document is put into the model's chat template.
        generation: Lets the dense model write the calibration text itself; `{}` takes the defaults of `GenerationSpec`.
        identify_languages: Whether the language of the text is guessed, to warn of a corpus in another one.
        document_separator: What stands between two documents of a sequence: newline or end_of_text.
        languages: The calibration-language mix, `{"de": 0.7, "en": 0.3}` or `["de", "en"]`.
        samples: Calibration sequences in all.
        sequence_length: Tokens per sequence.
        seed: Seed of the draw of the calibration text.
        policy: Where the weights of the mix come from: weights, proportional, temperature or minimax.
        temperature: T of the policy temperature; 1 keeps the shares, a large one evens them out.
        method: `magnitude`, `wanda`, `wanda_multilingual`, `ria`, `sparsegpt` or `alps`.
        sparsity: Share of the weights set to zero, between 0 and 1. Either this or `pattern`.
        pattern: `N:M`: N weights kept of every M consecutive inputs.
        update: What happens to the weights that stay: none, cg or obs; by default the method's own.
        order: Order of calibration and pruning: block, true_sequential or dense.
        group: Which weights compete: those of an output row, or those of a layer; by default the method's own.
        spread: How much `wanda_multilingual` adds for inputs that languages use differently.
        allocation: How sparse each block becomes: uniform, owl or multilingual.
        span: Half the range of the blocks' sparsities.
        outlier: The multiple of a block's mean score above which a score is an outlier.
        overrides: Layers that are treated otherwise than the rest.
        evaluation_corpus: Folder with the evaluation text; without it, a part of the calibration corpus is set aside.
        evaluation_text_field: Like `text_field`; without it, the same.
        evaluation_chat_template: Like `chat_template`; without it, the same.
        evaluation_languages: Languages to evaluate; without them, those of the mix.
        tokens_per_language: Tokens of evaluation text per language.
        layer_snr: Whether the report has every layer's signal-to-noise ratio.
        destination: Where to publish, `s3://bucket/prefix` or `file:///folder`.
        max_attempts: Attempts before the job is given up.
        queue_deadline_seconds: Within which a worker must have begun with the job.
        run_deadline_seconds: From then on, within which it must have ended.
    """

    revision: str | None
    corpus: str | None
    text_field: str | None
    chat_template: bool | None
    generation: Mapping[str, Any] | None
    identify_languages: bool | None
    document_separator: str | None
    languages: Required[Languages]
    samples: int | None
    sequence_length: int | None
    seed: int | None
    policy: str | None
    temperature: float | None
    method: str | None
    sparsity: float | None
    pattern: str | None
    update: str | None
    order: str | None
    group: str | None
    spread: float | None
    allocation: str | None
    span: float | None
    outlier: float | None
    overrides: Overrides | None
    evaluation_corpus: str | None
    evaluation_text_field: str | None
    evaluation_chat_template: bool | None
    evaluation_languages: Sequence[str] | None
    tokens_per_language: int | None
    layer_snr: bool | None
    destination: str | None
    max_attempts: int | None
    queue_deadline_seconds: int | None
    run_deadline_seconds: int | None


PATHS: Mapping[str, tuple[str, ...]] = {
    "revision": ("model", "revision"),
    "corpus": ("calibration", "corpus"),
    "text_field": ("calibration", "text_field"),
    "chat_template": ("calibration", "chat_template"),
    "generation": ("calibration", "generation"),
    "identify_languages": ("calibration", "identify_languages"),
    "document_separator": ("calibration", "document_separator"),
    "languages": ("calibration", "languages"),
    "samples": ("calibration", "samples"),
    "sequence_length": ("calibration", "sequence_length"),
    "seed": ("calibration", "seed"),
    "policy": ("calibration", "policy"),
    "temperature": ("calibration", "temperature"),
    "method": ("pruning", "method"),
    "sparsity": ("pruning", "sparsity"),
    "pattern": ("pruning", "pattern"),
    "update": ("pruning", "update"),
    "order": ("pruning", "order"),
    "group": ("pruning", "group"),
    "spread": ("pruning", "spread"),
    "allocation": ("pruning", "allocation", "policy"),
    "span": ("pruning", "allocation", "span"),
    "outlier": ("pruning", "allocation", "outlier"),
    "overrides": ("pruning", "overrides"),
    "evaluation_corpus": ("evaluation", "corpus"),
    "evaluation_text_field": ("evaluation", "text_field"),
    "evaluation_chat_template": ("evaluation", "chat_template"),
    "evaluation_languages": ("evaluation", "languages"),
    "tokens_per_language": ("evaluation", "tokens_per_language"),
    "layer_snr": ("evaluation", "layer_snr"),
    "destination": ("output", "destination"),
    "max_attempts": ("execution", "max_attempts"),
    "queue_deadline_seconds": ("execution", "queue_deadline_seconds"),
    "run_deadline_seconds": ("execution", "run_deadline_seconds"),
}
"""Where each option stands in a specification."""


def prune_spec(model: str, **options: Unpack[SpecOptions]) -> dict[str, Any]:
    """A specification as plain data, ready for `Client.submit`, `Client.plan` or a YAML file.

    Args:
        model: The model to prune: `hf://org/name@revision`, `s3://bucket/prefix` or `file:///folder`.
        **options: See `SpecOptions`.

    Raises:
        TypeError: an option is unknown.
    """
    spec: dict[str, Any] = {"model": {"uri": model}}
    return with_options(spec, options)


def with_options(spec: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """A specification with options laid over it; those that are None leave it as it is.

    A target given as an option replaces the one in the specification, sparsity and pattern being alternatives. A part
    that is no mapping stays, for `spec_message` to report.

    Raises:
        TypeError: an option is unknown.
    """
    unknown = options.keys() - PATHS.keys()
    if unknown:
        raise TypeError(f"no such option: {', '.join(sorted(unknown))}; known are {', '.join(PATHS)}")
    given = {name: value for name, value in options.items() if value is not None}
    merged = dict(spec)
    if given.keys() & {"sparsity", "pattern"}:
        target = _part(merged, ("pruning",))
        target.pop("sparsity", None)
        target.pop("pattern", None)
    for option, value in given.items():
        *path, field = PATHS[option]
        _part(merged, path)[field] = value
    return merged


def _part(spec: dict[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """A part of a specification for writing, copied on the way; where something else stands, a part of nothing."""
    for name in path:
        inner = spec.get(name)
        if inner is not None and not isinstance(inner, Mapping):
            return {}
        spec[name] = dict(inner or {})
        spec = spec[name]
    return spec
