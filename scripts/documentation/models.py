"""docs/models.md: the table of architectures."""

from __future__ import annotations

from secateur_service.models import architectures
from secateur_service.models.architectures import Architecture

_HEAD = """# Models

Written from [`models/architectures/`](../service/secateur_service/models/architectures/__init__.py) by `make docs`.

A model can be pruned if the `model_type` of its config.json is in a table below. `secateur info --architecture X` says
the same of the service that you use, and names the nearest type of one that is not there;
[extending.md](extending.md#an-architecture) says what a new one takes.

What `make test` tests of every row, on a tiny model with random weights and everything turned on that makes the family
different (7,540 tests with all others, 17 minutes on two cores):

- the whole pass in both orders against transformers' model in memory, which shares no code with it: perplexity of the
  dense and the pruned model, the hidden states after every block, exact numbers of zeros, and with Wanda every single
  mask;
- what was written loads as the same class with no missing and no unexpected tensor, and tensors that were not pruned are
  identical to the byte;
- names and shapes of all tensors, which admission derives from the configuration, against transformers' classes;
- what `shrink` can remove according to the last column, loaded and compared with the model in memory.

Gates with a row for each expert or each head stay as they are: routers, and of the gated delta rule (`qwen3_next`,
`qwen3_5`) the projections `in_proj_ba`, or `in_proj_b` and `in_proj_a`, which say how strongly a state is written and
how fast it decays. In Qwen3-Next-80B they are 0.4 % of the weights of such a block's attention, and they act on every
later token; what pruning them would cost was not measured.
[llm-compressor's example](https://github.com/vllm-project/llm-compressor/blob/main/examples/quantization_w8a8_fp8/qwen3_5_moe.py)
leaves all of linear attention alone.

Random weights show that the mechanics are right, not how much a family loses: [benchmarks.md](benchmarks.md) has figures
of Gemma 3 and SmolLM2 (llama). Types that are not listed are refused when a job is submitted.

`shrink` can remove rows of the vocabulary everywhere, and otherwise what the last column says: blocks, key/value heads,
channels of the feed-forward layers.
"""

_KINDS = (
    ("dense", "Dense, as Llama is"),
    ("later", "Dense families of 2025"),
    ("wide", "In the form of GPT-2 and after"),
    ("mixtures", "Mixtures of experts"),
    ("latent", "Mixtures of experts with latent attention"),
    ("stacked", "Mixtures whose experts are one tensor"),
    ("varied", "Families whose blocks differ in sizes"),
    ("hybrids", "Hybrids of attention and layers that carry a state"),
)


def page() -> str:
    """The page."""
    sections = [_section(title, getattr(architectures, kind).ARCHITECTURES) for kind, title in _KINDS]
    return "\n".join([_HEAD, *sections, _multimodal()])


def _section(title: str, rows: dict[str, Architecture]) -> str:
    lines = [
        f"## {title}",
        "",
        "| `model_type` | class | pruned; those that share an input together | left as it is | `shrink` |",
    ]
    lines.append("|---|---|---|---|---|")
    for model_type, row in rows.items():
        groups = "; ".join(", ".join(_short(name) for name in group) for group in row.groups_of({}))
        excluded = ", ".join(_short(name.removesuffix(".weight")) for name in row.excluded) or "-"
        lines.append(f"| `{model_type}` | {row.class_name}{_except(row)} | {groups} | {excluded} | {_axes(row)} |")
    return "\n".join([*lines, ""])


def _except(row: Architecture) -> str:
    """Which checkpoints cannot be pruned."""
    return f", except {row.excepted}" if row.excepted else ""


def _axes(row: Architecture) -> str:
    """What can be removed besides rows of the vocabulary."""
    return ", ".join(axis.replace("_", " ") for axis in row.axes if axis != "vocabulary") or "-"


def _multimodal() -> str:
    """The table of multimodal models."""
    lines = [
        "## Multimodal models, of which the text model is pruned in place",
        "",
        "Towers and projectors are copied byte for byte: see [specification.md](specification.md#multimodal-models).",
        "",
        "| `model_type` | class | text models | vision towers | `shrink`, by text model |",
        "|---|---|---|---|---|",
    ]
    for model_type, row in architectures.WRAPPERS.items():
        texts, towers = (", ".join(f"`{name}`" for name in names) for names in (row.texts, row.towers))
        axes = {name: _axes(row.around(architectures.ROWS[name])) for name in row.texts}
        alike = {*axes.values()}
        told = alike.pop() if len(alike) == 1 else "; ".join(f"`{name}`: {able}" for name, able in axes.items())
        excepted = _except(architectures.ROWS[row.texts[0]])
        lines.append(f"| `{model_type}` | {row.class_name}{excepted} | {texts} | {towers} | {told} |")
    return "\n".join([*lines, ""])


def _short(name: str) -> str:
    """A layer's name without the parts that say where it is, except for those of experts."""
    parts = name.split(".")
    return f"{parts[-3]}.{parts[-2]}.{parts[-1]}" if "*" in parts else parts[-1]
