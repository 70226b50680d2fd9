"""The options of a prune job as flat keywords, and the specification they stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Required, TypeAlias, TypedDict, Unpack

Languages: TypeAlias = Mapping[str, float] | Sequence[str]
"""A mix: languages (BCP 47) with their weights, or languages that weigh the same."""


class SpecOptions(TypedDict, total=False):
    """What `prune_spec` and `Client.prune` take beside the model; what is left out takes the service's default.

    Attributes:
        corpus: Folder with the calibration text, one file per language, as a URI.
        languages: The calibration-language mix, `{"de": 0.7, "en": 0.3}` or `["de", "en"]`.
        samples: Calibration sequences in all.
        sequence_length: Tokens per sequence.
        seed: Seed of the draw of the calibration text.
        method: `magnitude`, `wanda` or `sparsegpt`.
        sparsity: Share of the weights set to zero, between 0 and 1. Either this or `pattern`.
        pattern: `N:M`: N weights kept of every M consecutive inputs.
        update: What happens to the weights that stay: none, cg or obs; by default the method's own.
        order: Order of calibration and pruning.
        evaluation_corpus: Folder with the evaluation text; without it, a part of the calibration corpus is set aside.
        evaluation_languages: Languages to evaluate; without them, those of the mix.
        tokens_per_language: Tokens of evaluation text per language.
        destination: Where to publish, `s3://bucket/prefix` or `file:///folder`.
        max_attempts: Attempts before the job is given up.
    """

    corpus: Required[str]
    languages: Required[Languages]
    samples: int | None
    sequence_length: int | None
    seed: int | None
    method: str | None
    sparsity: float | None
    pattern: str | None
    update: str | None
    order: str | None
    evaluation_corpus: str | None
    evaluation_languages: Sequence[str] | None
    tokens_per_language: int | None
    destination: str | None
    max_attempts: int | None


PATHS: Mapping[str, tuple[str, str]] = {
    "corpus": ("calibration", "corpus"),
    "languages": ("calibration", "languages"),
    "samples": ("calibration", "samples"),
    "sequence_length": ("calibration", "sequence_length"),
    "seed": ("calibration", "seed"),
    "method": ("pruning", "method"),
    "sparsity": ("pruning", "sparsity"),
    "pattern": ("pruning", "pattern"),
    "update": ("pruning", "update"),
    "order": ("pruning", "order"),
    "evaluation_corpus": ("evaluation", "corpus"),
    "evaluation_languages": ("evaluation", "languages"),
    "tokens_per_language": ("evaluation", "tokens_per_language"),
    "destination": ("output", "destination"),
    "max_attempts": ("execution", "max_attempts"),
}
"""Where each option stands in a specification."""


def prune_spec(model: str, **options: Unpack[SpecOptions]) -> dict[str, Any]:
    """A specification as plain data, ready for `Client.submit`, `Client.plan` or a YAML file.

    Args:
        model: The model to prune, as a URI.
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
    merged = {name: dict(part) if isinstance(part, Mapping) else part for name, part in spec.items()}
    if given.keys() & {"sparsity", "pattern"} and isinstance(merged.get("pruning"), dict):
        merged["pruning"].pop("sparsity", None)
        merged["pruning"].pop("pattern", None)
    for option, value in given.items():
        part, field = PATHS[option]
        if merged.get(part) is None:
            merged[part] = {}
        if isinstance(merged[part], dict):
            merged[part][field] = value
    return merged
