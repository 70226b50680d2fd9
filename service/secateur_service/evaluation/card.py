"""The model card, `README.md` beside the checkpoint, with the front matter that model hubs read.

Like report.json, it is the same for every attempt at a job. It claims nothing that was not measured.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable

import langcodes
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from secateur._bands import SCALE, growth_digits
from secateur._facts import facts
from secateur._language_names import in_words
from secateur._text import digits
from secateur_service.evaluation.headline import NO_TASKS
from secateur_service.evaluation.html import model_name, narrowed_parts, recipe
from secateur_service.evaluation.parts import EvaluationLanguage
from secateur_service.evaluation.report import Report
from secateur_service.models.license import License
from secateur_service.sources.reference import HubReference, ReferenceRefusedError, parse_reference

# ISO 639 codes that do not name a language.
_NO_LANGUAGE = ("mis", "mul", "und", "zxx")
_OTHER_IDS = """\
**Use the tokenizer in this folder**: token ids differ from the base model's. `vocab_map.json` lists the base model's id
of every token, for adapters and logit biases. Text of other languages is still encoded, in more tokens.
"""
_ZEROS = """\
**Zeros alone make a model neither smaller nor faster to serve** in today's general servers. They are stored like any
other weight: this checkpoint is as large as without them and runs at the same speed.
"""


def render_card(report: Report, license_: License | None = None) -> bytes:
    """Render the card.

    Args:
        report: The figures.
        license_: The base model's license, as its own card states it; None if it is not known.
    """
    return (_front_matter(report, license_) + "\n" + _body(report, license_)).encode()


def base_model(uri: str) -> str | None:
    """The base model's name on the hub, `org/name`; None for models from elsewhere."""
    if not uri.startswith("hf://"):
        return None
    try:
        reference = parse_reference(uri)
        if not isinstance(reference, HubReference) or reference.kind != "model":
            return None
        validate_repo_id(reference.repository)
    except (ReferenceRefusedError, HFValidationError):
        return None
    return reference.repository


def languages_of(tags: Iterable[str]) -> tuple[list[str], list[str]]:
    """Languages as hubs expect them: ISO 639 codes, and the BCP 47 tags that are more specific than such a code."""
    codes, others = [], []
    for tag in tags:
        code = langcodes.standardize_tag(tag).partition("-")[0]
        names_one = re.fullmatch("[a-z]{2,3}", code) and code not in _NO_LANGUAGE and not "qaa" <= code <= "qtz"
        if names_one:
            codes.append(code)
        if tag != code or not names_one:
            others.append(tag)
    return list(dict.fromkeys(codes)), others


def _front_matter(report: Report, license_: License | None) -> str:
    """YAML; strings are written as JSON, a subset of YAML, so that no value can break out of its field."""
    codes, others = languages_of(_served(report))
    fields: dict[str, object] = {
        "base_model": base_model(report.model.uri),
        "license": license_ and license_.identifier,
        "license_name": license_ and license_.name,
        "license_link": license_ and license_.link,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "language": codes,
        "language_bcp47": others,
        "tags": _tags(report),
    }
    lines = ["---", *(f"{name}: {json.dumps(value)}" for name, value in fields.items() if value), "---", ""]
    return "\n".join(lines)


def _body(report: Report, license_: License | None) -> str:
    pruning = report.spec["pruning"]
    name = _plain(model_name(report.model.uri))
    mix = ", ".join(
        f"{_plain(in_words(entry.language))} {entry.weight:.0%}" for entry in report.calibration if entry.weight > 0
    )
    kept = (report.spec.get("shrink") or {}).get("keep_languages")
    served = ", ".join(_plain(in_words(language)) for language in kept) if kept else mix
    rows = "\n".join(
        f"| {_plain(in_words(entry.language))} | {'yes' if entry.in_mix else 'no'} | {digits(entry.dense_perplexity)} "
        f"| {digits(entry.pruned_perplexity)} | {_growth(entry)} | {entry.band or '–'} "
        f"| {entry.dense_bits_per_byte:.3f} | {entry.pruned_bits_per_byte:.3f} "
        f"| {'–' if entry.agreement is None else f'{entry.agreement:.1%}'} |"
        for entry in report.evaluation
    )
    verdicts = "\n".join(f"- {_plain(verdict.message)}" for verdict in report.verdicts)
    inherited = (
        f"The base model's card names its license as {_plain(license_.label)}; it applies to this model too."
        if license_ is not None
        else "The base model does not name its license in a form that could be carried over; look it up before use."
    )
    revision = report.spec.get("model", {}).get("revision")
    made = "\n".join(f"| {title.lower()} | {_plain(told)} |" for title, told in facts(report.model_dump(mode="json")))
    return f"""# {name}, {"pruned" if pruning else "made smaller"} for {served}

{_done(report, name, mix, served)}
{_plain(report.decision.sentence) if report.decision and report.decision.answer else ""}
{_headline(report)}

{_size(report)}
## What pruning cost each language

| language | in the mix | perplexity, dense | pruned | growth | loss | bits per byte, dense | pruned | same next token |
|---|---|---:|---:|---:|---|---:|---:|---:|
{rows}

Perplexity depends on the tokenizer and does not compare between languages; bits per byte does. In brackets: the 95 %
confidence interval, by resampling the documents of the evaluation. The loss in a word, by the growth: {SCALE}.

{verdicts or "Nothing unusual was found."}
{_tasks(report)}
## Recipe

| | |
|---|---|
| base model | {_plain(report.model.uri + (f" at {revision}" if revision else ""))} |
| base model digest | {_plain(report.model.digest)} |
| what was done | {_plain("; ".join(recipe(report)))} |
| mix | {mix} |
{made}
| made with | Secateur {_plain(report.job.secateur_version)}, job {_plain(report.job.id)} |

The whole specification, every figure and plots are in `report/` beside the checkpoint's folder; `provenance.json` says
when it was made, in what time, and what is needed to run it again.

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("checkpoint")
tokenizer = AutoTokenizer.from_pretrained("checkpoint")
```

## Limits

- {NO_TASKS if not report.tasks else "Tasks beyond those that were measured can fall while perplexity hardly moves."}
- Languages that are neither in the mix nor in the table were not measured; expect them to have lost more.
- The limits, biases and terms of the base model remain. {inherited}
"""


def _headline(report: Report) -> str:
    """What the languages of the mix lost, then the others; without what the limits section says."""
    found = report.headline
    return (
        "\n".join(_plain(told) for told in (found.reservation, found.sentence, found.also_measured) if told)
        if found
        else ""
    )


def _growth(entry: EvaluationLanguage) -> str:
    if entry.intervals is None:
        return f"×{growth_digits(entry.perplexity_ratio)}"
    low, high = entry.intervals.perplexity_ratio
    return f"×{growth_digits(entry.perplexity_ratio)} ({digits(low)} to {digits(high)})"


def _tasks(report: Report) -> str:
    """A line on what the tasks showed; empty if there were none whose items are right or wrong."""
    judged = [part for part in report.tasks if part.flips is not None and None not in (part.dense, part.pruned)]
    first = list({part.task: part for part in reversed(judged)}.values())
    if not first:
        return ""
    before, after = (
        statistics.fmean(float(getattr(part, side) or 0) for part in first) for side in ("dense", "pruned")
    )
    count = "1 task" if len(first) == 1 else f"{len(first)} tasks"
    return (
        f"\nOn {count} of lm-evaluation-harness, {before:.1%} of the answers were right before and {after:.1%} are now "
        "(mean over tasks); `report/` has each with its error.\n"
    )


def _plain(text: str) -> str:
    """Text escaped for Markdown and HTML, in one line."""
    flat = " ".join(text.split())
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", flat).replace("\\<", "&lt;").replace("\\>", "&gt;")


def _tags(report: Report) -> list[str]:
    tags = ["secateur"]
    if report.spec["pruning"]:
        tags += ["pruned", "sparse", report.spec["pruning"]["method"]]
    if any(narrowed_parts(report)):
        tags.append("narrowed")
    if report.removed_blocks:
        tags.append("fewer-blocks")
    return [*tags, *(["trimmed-vocabulary"] if report.vocabulary else [])]


def _served(report: Report) -> list[str]:
    """The languages that the model was made for: those that it was to keep, else those of the mix."""
    kept = (report.spec.get("shrink") or {}).get("keep_languages")
    return list(kept or (entry.language for entry in report.calibration if entry.weight > 0))


def _done(report: Report, name: str, mix: str, served: str) -> str:
    """What was done to the model."""
    before, after, vocabulary = report.model, report.output, report.vocabulary
    sentences = []
    if after.parameters != before.parameters:
        parts = [f"{vocabulary.rows:,} of {vocabulary.rows_before:,} tokens"] if vocabulary else []
        parts += [f"{part.kept:,} of {part.before:,} {units}" for units, part in narrowed_parts(report)]
        parts += [f"{after.blocks} of {before.blocks} blocks"] if after.blocks != before.blocks else []
        sentences = [
            f"{name} without {1 - after.parameters / before.parameters:.1%} of its parameters: {after.parameters:,} of",
            f"{before.parameters:,} are left{', with ' if parts else ''}{' and '.join(parts)}",
            f"(chosen for {served}).",
        ]
    if report.sparsity.zeros:
        sentences += [
            f"{report.sparsity.pruned_layers:.2%} of the weights of its decoder blocks' linear layers are set to zero",
            f"({report.sparsity.all_parameters:.2%} of all parameters), calibrated on {mix}.",
        ]
    return "\n".join(sentences)


def _size(report: Report) -> str:
    """What the result is worth to whoever serves it, and what they have to do."""
    paragraphs = []
    if report.vocabulary:
        paragraphs.append(_OTHER_IDS)
    if report.sparsity.zeros:
        paragraphs.append(_ZEROS)
    return "\n".join(paragraphs)
