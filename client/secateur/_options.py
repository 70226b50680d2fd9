"""The options of a prune job as flat keywords, and the specification that they define."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Required, TypeAlias, TypedDict, Unpack

from secateur._suggestions import close_to, did_you_mean

Languages: TypeAlias = Mapping[str, float] | Sequence[str]
"""A mix: languages (BCP 47) with their weights, or languages alone."""

Overrides: TypeAlias = Mapping[str, float | str] | Sequence[Mapping[str, Any]]
"""Layers treated differently from the rest: `{"model.layers.0.*": "dense", "*.down_proj.weight": 0.4}`, or a list of
mappings with `layers` and one of `sparsity`, `pattern` and `dense`. The last override that matches a layer applies.
"""


class Option(NamedTuple):
    """One option of a prune job.

    Attributes:
        path: its path in a specification.
        help: what it is.
        default: in words, what applies if it is omitted; empty if it, or an alternative to it, must be given.
    """

    path: tuple[str, ...]
    help: str
    default: str = ""


OPTIONS: Mapping[str, Option] = {
    "revision": Option(
        ("model", "revision"),
        "Of a model of the hub: branch, tag or commit.",
        "the main branch",
    ),
    "corpus": Option(
        ("calibration", "corpus"),
        "Calibration text: a preset (`secateur info` lists them), or a folder with a file for each language: "
        "hf://datasets/org/name[@revision], s3://bucket/prefix or file:///folder.",
        "mc4",
    ),
    "text_field": Option(
        ("calibration", "text_field"),
        "Name of the text in JSON objects and parquet tables.",
        "text",
    ),
    "chat_template": Option(
        ("calibration", "chat_template"),
        "Put every document into the model's chat template.",
        "false",
    ),
    "generation": Option(
        ("calibration", "generation"),
        "Let the dense model write the calibration text, starting from short prefixes of the corpus; {} takes the "
        "defaults.",
        "none",
    ),
    "identify_languages": Option(
        ("calibration", "identify_languages"),
        "Guess the language of the text, to warn of a corpus in another one.",
        "true",
    ),
    "document_separator": Option(
        ("calibration", "document_separator"),
        "Between two documents of a sequence: newline or end_of_text.",
        "newline",
    ),
    "languages": Option(
        ("calibration", "languages"),
        'The calibration-language mix: {"de": 0.7, "en": 0.3}, or ["de", "en"].',
    ),
    "samples": Option(
        ("calibration", "samples"),
        "Calibration sequences in all.",
        "128",
    ),
    "sequence_length": Option(
        ("calibration", "sequence_length"),
        "Tokens per sequence.",
        "2048, or the model's maximum",
    ),
    "seed": Option(
        ("calibration", "seed"),
        "Seed of the draw of the calibration text.",
        "0",
    ),
    "policy": Option(
        ("calibration", "policy"),
        "Where the weights of the mix come from: weights, proportional, temperature or minimax.",
        "weights",
    ),
    "temperature": Option(
        ("calibration", "temperature"),
        "T of the policy temperature: 1 keeps the shares, a large one evens them out.",
        "3.33",
    ),
    "preset": Option(
        ("pruning", "preset"),
        "A point on the curve of quality against time, instead of a method: fast, balanced, or best, which also trains "
        "blocks.",
    ),
    "method": Option(
        ("pruning", "method"),
        "Which weights go: magnitude, wanda, wanda_multilingual, ria, sparsegpt or alps. Each brings its own update.",
        "sparsegpt",
    ),
    "sparsity": Option(
        ("pruning", "sparsity"),
        "Share of the weights set to zero, e.g. 0.5. Either this or the pattern.",
    ),
    "pattern": Option(
        ("pruning", "pattern"),
        "N:M, e.g. 2:4: N weights kept of every M consecutive inputs. Either this or the sparsity.",
    ),
    "update": Option(
        ("pruning", "update"),
        "What happens to the weights that stay: none, cg or obs; admm with alps.",
        "the method's: cg with sparsegpt, admm with alps, else none",
    ),
    "order": Option(
        ("pruning", "order"),
        "Order of calibration and pruning: block, true_sequential or dense.",
        "true_sequential",
    ),
    "group": Option(
        ("pruning", "group"),
        "Which weights compete: those of an output row, or those of a layer.",
        "the method's",
    ),
    "spread": Option(
        ("pruning", "spread"),
        "How much wanda_multilingual adds for inputs that languages use differently.",
        "0.5",
    ),
    "asymmetric": Option(
        ("pruning", "asymmetric"),
        "Whether layers have the dense model's output as their target.",
        "true where the update solves for values, unless the order is dense or blocks are trained",
    ),
    "allocation": Option(
        ("pruning", "allocation", "policy"),
        "How sparse each block becomes: uniform, owl or multilingual.",
        "uniform",
    ),
    "span": Option(
        ("pruning", "allocation", "span"),
        "Half the range of the blocks' sparsities.",
        "0.08",
    ),
    "outlier": Option(
        ("pruning", "allocation", "outlier"),
        "The multiple of a block's mean score above which a score is an outlier.",
        "5",
    ),
    "overrides": Option(
        ("pruning", "overrides"),
        "Layers that are treated otherwise than the rest.",
    ),
    "extra_tokens": Option(
        ("shrink", "vocabulary", "extra_tokens"),
        "Trim the vocabulary: the share of further tokens that each kept language may need, e.g. 0.005. Either this or "
        "the number of rows.",
    ),
    "vocabulary_rows": Option(
        ("shrink", "vocabulary", "rows"),
        "Trim the vocabulary to so many rows, rounded up to a multiple of 64.",
    ),
    "vocabulary_prior": Option(
        ("shrink", "vocabulary", "prior"),
        "What is known of tokens that the text did not show: model, how often it expects them; ranks, their order in "
        "the vocabulary; or words, how often the language uses each word.",
        "model",
    ),
    "vocabulary_weights": Option(
        ("shrink", "vocabulary", "weights"),
        "How dear a further token is in a kept language: its share of further tokens counts so many times. With 0.01 "
        "extra tokens and weight 2, a language may take 0.5 %.",
        "1 each",
    ),
    "keep_texts": Option(
        ("shrink", "vocabulary", "keep_texts"),
        "Texts whose tokens are kept in a trimmed vocabulary.",
        "none",
    ),
    "feed_forward_share": Option(
        ("shrink", "feed_forward", "share"),
        "Narrow the feed-forward layers: the share of their channels to remove, e.g. 0.25. Either this or the number "
        "of channels.",
    ),
    "feed_forward_channels": Option(
        ("shrink", "feed_forward", "channels"),
        "Narrow the feed-forward layers to so many channels.",
    ),
    "feed_forward_multiple_of": Option(
        ("shrink", "feed_forward", "multiple_of"),
        "With a share: what the number of channels is a multiple of.",
        "256, or less where that does not divide the width",
    ),
    "remove_blocks": Option(
        ("shrink", "blocks", "remove"),
        "Remove so many decoder blocks: those whose loss costs the kept languages least.",
    ),
    "remove_kv_heads": Option(
        ("shrink", "kv_heads", "remove"),
        "Remove so many key/value heads, with their query heads, from every block.",
    ),
    "shrink_to": Option(
        ("shrink", "budget", "parameters"),
        "Let the service choose what is removed: the share of the parameters that the result may have, e.g. 0.5.",
    ),
    "shrink_axes": Option(
        ("shrink", "budget", "axes"),
        "With a budget: what may be removed, of vocabulary, blocks, kv_heads and feed_forward.",
        "all that the model allows",
    ),
    "shrink_plan": Option(
        ("shrink", "plan"),
        "Keep what another job on the same model kept: the folder of its result, s3://bucket/prefix or file:///folder.",
    ),
    "shrink_plan_sha256": Option(
        ("shrink", "plan_sha256"),
        "SHA-256 of that folder's plan.json.",
        "filled in at submission",
    ),
    "keep_languages": Option(
        ("shrink", "keep_languages"),
        "Languages of the mix that a smaller model has to serve.",
        "those of the mix",
    ),
    "reconstruction_epochs": Option(
        ("reconstruction", "epochs"),
        "Train each block to do what the dense model does there: how often to go through the calibration text. Without "
        "this and the options that follow, nothing is trained.",
        "4",
    ),
    "reconstruction_learning_rate": Option(
        ("reconstruction", "learning_rate"),
        "With training: the first step's size as a share of the weights' root mean square.",
        "0.03",
    ),
    "reconstruction_batch": Option(
        ("reconstruction", "batch"),
        "With training: sequences of each step.",
        "4",
    ),
    "reconstruction_norms": Option(
        ("reconstruction", "norms"),
        "With training: train the weights of norms too.",
        "false",
    ),
    "reconstruction_seed": Option(
        ("reconstruction", "seed"),
        "With training: decides the order of the sequences.",
        "0",
    ),
    "evaluation_corpus": Option(
        ("evaluation", "corpus"),
        "Evaluation text; a folder like that of the calibration text.",
        "a part of the calibration corpus",
    ),
    "evaluation_text_field": Option(
        ("evaluation", "text_field"),
        "Name of the text in the evaluation text.",
        "that of the calibration",
    ),
    "evaluation_chat_template": Option(
        ("evaluation", "chat_template"),
        "Put every document of the evaluation text into the chat template.",
        "that of the calibration",
    ),
    "evaluation_languages": Option(
        ("evaluation", "languages"),
        "Languages to evaluate.",
        "those of the mix",
    ),
    "tokens_per_language": Option(
        ("evaluation", "tokens_per_language"),
        "Tokens of evaluation text per language, or the most if there is enough_documents.",
        "65536",
    ),
    "enough_documents": Option(
        ("evaluation", "enough_documents"),
        "Documents per language that are enough, though they are only a quarter of tokens_per_language or more.",
        "500 if tokens_per_language is not given, else none",
    ),
    "layer_snr": Option(
        ("evaluation", "layer_snr"),
        "Measure every layer's signal-to-noise ratio.",
        "true",
    ),
    "language_neurons": Option(
        ("evaluation", "language_neurons"),
        "Find the neurons that belong to a language, and what became of them; needs two evaluated languages.",
        "false",
    ),
    "tasks": Option(
        ("evaluation", "tasks"),
        "Tasks of lm-evaluation-harness that both models answer, and groups of them: those of task_files, or those "
        "that it comes with.",
        "none",
    ),
    "task_files": Option(
        ("evaluation", "task_files"),
        "Folder with a file NAME.yaml for each task and its items in files of JSON lines.",
        "none",
    ),
    "task_limit": Option(
        ("evaluation", "task_limit"),
        "The most items of each task, which usually has one language.",
        "100",
    ),
    "task_shots": Option(
        ("evaluation", "task_shots"),
        "Examples before each question of a task.",
        "what each task says",
    ),
    "task_chat_template": Option(
        ("evaluation", "task_chat_template"),
        "Put the questions of tasks into the model's chat template.",
        "false",
    ),
    "continuations": Option(
        ("evaluation", "continuations"),
        "Texts of each language that both models continue, for a look at the report; 0 for none. The whole model has "
        "to fit in memory.",
        "3 if its weights take at most 2 GB, else 0",
    ),
    "limits": Option(
        ("limits", "languages"),
        'What languages may lose at most, as growth of their bits per byte: {"uk": 0.01}, or "*" for all that have no '
        "limit of their own. A job that exceeds it ends "
        "without a checkpoint, with its report.",
        "none",
    ),
    "max_task_loss": Option(
        ("limits", "task_loss"),
        "What a metric of a task may lose at most, as an amount of it, e.g. 0.02 for two items of a hundred. A job "
        "that exceeds it ends without a checkpoint, with its report.",
        "none",
    ),
    "destination": Option(
        ("output", "destination"),
        "Where to publish: s3://bucket/prefix or file:///folder.",
        "the service's first",
    ),
    "max_attempts": Option(
        ("execution", "max_attempts"),
        "Attempts before the job is given up.",
        "3",
    ),
    "queue_deadline_seconds": Option(
        ("execution", "queue_deadline_seconds"),
        "Seconds within which a worker must have begun with the job.",
        "none",
    ),
    "run_deadline_seconds": Option(
        ("execution", "run_deadline_seconds"),
        "Seconds from then on within which the job must have ended.",
        "none",
    ),
    "processes": Option(
        ("execution", "processes"),
        "Processes that run the job together on CPUs, at most as many as the service allows; the result is the same "
        "for any number.",
        "what the operator allows",
    ),
}
"""All options except the model: keywords of `prune_spec`, flags of `secateur submit`, and the help for both."""


_WIDTHS = ("feed_forward_share", "feed_forward_channels", "feed_forward_multiple_of")


class SpecOptions(TypedDict, total=False):
    """What `prune_spec` and `Client.prune` take besides the model; omitted options take the service's defaults."""

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
    preset: str | None
    method: str | None
    sparsity: float | None
    pattern: str | None
    update: str | None
    order: str | None
    group: str | None
    spread: float | None
    asymmetric: bool | None
    allocation: str | None
    span: float | None
    outlier: float | None
    overrides: Overrides | None
    extra_tokens: float | None
    vocabulary_rows: int | None
    vocabulary_prior: str | None
    vocabulary_weights: Mapping[str, float] | None
    keep_texts: Sequence[str] | None
    feed_forward_share: float | None
    feed_forward_channels: int | None
    feed_forward_multiple_of: int | None
    remove_blocks: int | None
    remove_kv_heads: int | None
    shrink_to: float | None
    shrink_axes: Sequence[str] | None
    shrink_plan: str | None
    shrink_plan_sha256: str | None
    keep_languages: Sequence[str] | None
    reconstruction_epochs: int | None
    reconstruction_learning_rate: float | None
    reconstruction_batch: int | None
    reconstruction_norms: bool | None
    reconstruction_seed: int | None
    evaluation_corpus: str | None
    evaluation_text_field: str | None
    evaluation_chat_template: bool | None
    evaluation_languages: Sequence[str] | None
    tokens_per_language: int | None
    enough_documents: int | None
    layer_snr: bool | None
    language_neurons: bool | None
    tasks: Sequence[str] | None
    task_files: str | None
    task_limit: int | None
    task_shots: int | None
    task_chat_template: bool | None
    continuations: int | None
    limits: Mapping[str, float] | None
    max_task_loss: float | None
    destination: str | None
    max_attempts: int | None
    queue_deadline_seconds: int | None
    run_deadline_seconds: int | None
    processes: int | None


SpecOptions.__doc__ = f"{SpecOptions.__doc__}\n\nAttributes:\n" + "\n".join(
    f"    {name}: {option.help}" + f" Default: {option.default}." * bool(option.default)
    for name, option in OPTIONS.items()
)


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
    """A specification with options merged in; those that are None change nothing.

    A target given as an option replaces the one in the specification, since sparsity and pattern are alternatives, and
    so are extra tokens and rows. A part that is not a mapping stays, for `spec_message` to report.

    Raises:
        TypeError: an option is unknown.
    """
    if unknown := sorted(options.keys() - OPTIONS.keys()):
        meant = [f"{did_you_mean([near])} " for near in (close_to(name, OPTIONS) for name in unknown) if near]
        hint = f", {''.join(meant)}".rstrip() if meant else ";"
        raise TypeError(f"no such option: {', '.join(unknown)}{hint} known are {', '.join(OPTIONS)}")
    given = {name: value for name, value in options.items() if value is not None}
    merged = dict(spec)
    for alternatives in (("sparsity", "pattern"), ("extra_tokens", "vocabulary_rows"), _WIDTHS):
        for option in alternatives if given.keys() & set(alternatives) else ():
            *path, field = OPTIONS[option].path
            _part(merged, path).pop(field, None)
    for option, value in given.items():
        *path, field = OPTIONS[option].path
        _part(merged, path)[field] = value
    return merged


def _part(spec: dict[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """A writable part of a specification, copied along the path; if it is not a mapping, a part that goes nowhere."""
    for name in path:
        inner = spec.get(name)
        if inner is not None and not isinstance(inner, Mapping):
            return {}
        spec[name] = dict(inner or {})
        spec = spec[name]
    return spec
