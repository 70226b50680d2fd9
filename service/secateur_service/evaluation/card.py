"""The model card, `README.md` beside the checkpoint, with the front matter that model hubs read.

Like report.json it is the same for every attempt at a job. It claims nothing that was not measured.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from secateur_service.evaluation.html import mean_ratio, model_name, target
from secateur_service.evaluation.report import Report
from secateur_service.pruning.methods import label

_MAX_CARD_BYTES = 2**20


def render_card(report: Report, *, license_id: str | None = None) -> bytes:
    """Render the card.

    Args:
        report: The figures.
        license_id: The base model's license, as its own card names it (`read_license`); None where it is not known.
    """
    return (_front_matter(report, license_id) + "\n" + _body(report, license_id)).encode()


def read_license(folder: Path) -> str | None:
    """The license that the card of a model in `folder` declares; None where there is no card or it declares none."""
    card = folder / "README.md"
    if not card.is_file() or card.stat().st_size > _MAX_CARD_BYTES:
        return None
    match = re.match(r"---\s*\n(.*?)\n---\s*\n", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    if match is None:
        return None
    try:
        declared = YAML(typ="safe", pure=True).load(match[1])
    except YAMLError:
        return None
    license_id = declared.get("license") if isinstance(declared, dict) else None
    return license_id if isinstance(license_id, str) else None


def base_model(uri: str) -> str:
    """The base model as hubs name it: `org/name` of an `hf` URI, else the last part of the URI."""
    return uri.removeprefix("hf://") if uri.startswith("hf://") else model_name(uri)


def _front_matter(report: Report, license_id: str | None) -> str:
    """YAML; strings are written as JSON, which YAML contains, so that no value can break out of its place."""
    languages = [entry.language for entry in report.calibration if entry.weight > 0]
    tags = ["secateur", "pruned", "sparse", report.spec["pruning"]["method"]]
    lines = ["---", f"base_model: {_quoted(base_model(report.model.uri))}"]
    if license_id is not None:
        lines.append(f"license: {_quoted(license_id)}")
    lines += ["library_name: transformers", "pipeline_tag: text-generation", "language:"]
    lines += [f"- {_quoted(language)}" for language in languages]
    lines += ["tags:", *(f"- {_quoted(tag)}" for tag in tags), "---", ""]
    return "\n".join(lines)


def _body(report: Report, license_id: str | None) -> str:
    pruning, calibration = report.spec["pruning"], report.spec["calibration"]
    name = _plain(model_name(report.model.uri))
    mix = ", ".join(f"{_plain(entry.language)} {entry.weight:.0%}" for entry in report.calibration if entry.weight > 0)
    rows = "\n".join(
        f"| {_plain(entry.language)} | {'yes' if entry.in_mix else 'no'} | {entry.dense_perplexity:.2f} "
        f"| {entry.pruned_perplexity:.2f} | ×{entry.perplexity_ratio:.2f} | {entry.dense_bits_per_byte:.3f} "
        f"| {entry.pruned_bits_per_byte:.3f} |"
        for entry in report.evaluation
    )
    verdicts = "\n".join(f"- {_plain(verdict.message)}" for verdict in report.verdicts)
    inherited = (
        f"The base model's card names its license as {_plain(license_id)}; it applies to this model too."
        if license_id is not None
        else "The base model does not name its license in a form that could be carried over; look it up before use."
    )
    revision = report.spec.get("model", {}).get("revision")
    return f"""# {name}, pruned for {mix}

{name} with {report.sparsity.pruned_layers:.2%} of the weights of its decoder blocks' linear layers set to zero
({report.sparsity.all_parameters:.2%} of all parameters), calibrated on {mix}.
Over the evaluated languages its perplexity is ×{mean_ratio(report):.2f} that of the dense model (geometric mean).

**Zeros alone make a model neither smaller nor faster to serve.** They are stored like any other weight: this checkpoint
is as large as the dense one and runs at the same speed.

## What pruning cost each language

| language | calibrated on | perplexity, dense | pruned | growth | bits per byte, dense | pruned |
|---|---|---:|---:|---:|---:|---:|
{rows}

Perplexity depends on the tokenizer and does not compare between languages; bits per byte does.

{verdicts or "Nothing unusual was found."}

## Recipe

| | |
|---|---|
| base model | {_plain(report.model.uri + (f" at {revision}" if revision else ""))} |
| base model digest | {_plain(report.model.digest)} |
| method | {_plain(label(pruning["method"], pruning["update"]))} |
| target | {_plain(target(pruning))} |
| order | {_plain(str(pruning.get("order") or "block"))} |
| calibration | {mix}; {calibration.get("samples")} sequences of {calibration.get("sequence_length")} tokens, seed \
{calibration.get("seed")} |
| made with | Secateur {_plain(report.job.secateur_version)}, job {_plain(report.job.id)} |

The whole specification, every figure and plots are in `report/` beside the checkpoint's folder; `provenance.json` says
what is needed to run it again.

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("checkpoint")
tokenizer = AutoTokenizer.from_pretrained("checkpoint")
```

## Limits

- Perplexity on held-out text says what the model still predicts, not what it can still do: low perplexity after pruning
  does not promise that downstream tasks keep their scores. Evaluate the tasks you ship.
- Languages that are neither in the mix nor in the table were not measured; expect them to have lost more.
- The limits, biases and terms of the base model remain. {inherited}
"""


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=True)


def _plain(text: str) -> str:
    """Text that Markdown and HTML show as it is, in one line."""
    flat = " ".join(text.split())
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", flat).replace("\\<", "&lt;").replace("\\>", "&gt;")
