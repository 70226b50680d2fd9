"""What the language policies and the allocations are worth, on your own model and text.

    python benchmarks/languages.py --model DIR --calibration DIR --evaluation DIR [--seeds 0 1]
    python benchmarks/languages.py --small [--output DIR]

Two questions, each with the same text for all answers:

- *allocation*, at 70 %: is it better to prune blocks unequally? By OWL's outliers, by those of the language that has
  most (multilingual), and by how much the languages disagree on a block's inputs, in both directions, which the service
  does not offer;
- *mix*, at 60 %: what does the worst language lose when all languages count the same, when only one language (`--only`)
  is calibrated on, with the same total amount of text, when each layer is solved for the language that loses most
  (minimax), and when Wanda favours inputs that languages use differently (wanda_multilingual, by its spread κ)?

Every result is immediately written to benchmarks/results/languages.json and not recomputed, so that the command can be
interrupted and repeated. Prints and draws pruned / dense perplexity, the geometric mean over languages and the worst
language, averaged over the seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import torch
from small import LENGTH as SMALL_LENGTH
from small import options_with_text
from transformers import AutoTokenizer

from secateur_service.calibration.corpora import FolderCorpus
from secateur_service.calibration.sampling import TextSample, draw_samples
from secateur_service.library import prune_tokens
from secateur_service.models.opening import open_checkpoint
from secateur_service.models.streaming import StreamedModel
from secateur_service.pipeline.allocation import allocate, judge_blocks
from secateur_service.pipeline.observer import RecordingObserver
from secateur_service.pipeline.stopwatch import Stopwatch
from secateur_service.pruning.allocation import Layers, layer_sparsities
from secateur_service.pruning.methods import label
from secateur_service.pruning.patterns import Target, Unstructured
from secateur_service.spec import DEFAULT_SPAN, PruneSpec, parse_spec

mpl.use("Agg")
import matplotlib.pyplot as plt

ORDER = "block"  # as in the reference papers
ALLOCATION_SPARSITY = 0.7
MIX_SPARSITY = 0.6
SPREADS = (0.5, 1.0, 2.0)
COLOURS = ("#1d6b4f", "#c9a227")
Samples = tuple[dict[str, TextSample], dict[str, TextSample]]


@dataclass(frozen=True)
class Case:
    """One answer to a question: a job's settings; with a `sign`, how to treat blocks whose languages disagree."""

    question: str
    answer: str
    method: str
    update: str
    policy: str = "weights"
    allocation: str = "uniform"
    sign: int = 0
    only: bool = False
    spread: float | None = None

    @property
    def key(self) -> str:
        """Its key in the results."""
        return f"{self.question}/{self.recipe}/{self.answer}"

    @property
    def recipe(self) -> str:
        """The method with its update."""
        return label("wanda" if self.spread is not None else self.method, self.update)


def cases() -> Iterator[Case]:
    """All answers to both questions."""
    for method, update in (("wanda", "none"), ("sparsegpt", "cg")):
        for allocation in ("uniform", "owl", "multilingual"):
            yield Case("allocation", allocation, method, update, allocation=allocation)
        yield Case("allocation", "disagreement: less sparse", method, update, sign=1)
        yield Case("allocation", "disagreement: sparser", method, update, sign=-1)
        yield Case("mix", "equal weights", method, update)
        yield Case("mix", "one language", method, update, only=True)
        yield Case("mix", "minimax", method, update, policy="minimax")
    for spread in SPREADS:
        yield Case("mix", f"multilingual, κ = {spread:g}", "wanda_multilingual", "none", spread=spread)


def specification(case: Case, model: Path, samples: Samples) -> PruneSpec:
    """The specification that a job would have; the text is already drawn."""
    calibration, evaluation = samples
    return parse_spec(
        {
            "model": {"uri": model.resolve().as_uri()},
            "calibration": {
                "corpus": "file:///drawn",
                "languages": [{"language": name} for name in calibration],
                "policy": case.policy,
            },
            "pruning": {
                "method": case.method,
                "update": case.update,
                "order": ORDER,
                "sparsity": ALLOCATION_SPARSITY if case.question == "allocation" else MIX_SPARSITY,
                "allocation": {"policy": case.allocation},
                "spread": case.spread,
            },
            "evaluation": {"languages": list(evaluation), "layer_snr": False},
        }
    )


def disagreement(layers: Layers) -> float:
    """1 − the mean cosine between the languages' root mean squares, over pairs of languages and a block's inputs."""
    found = []
    for seen in dict.fromkeys(statistics for _, statistics in layers):
        norms_LN = torch.stack(list(seen.language_mean_squares().values())).sqrt()
        cosines_LL = torch.nn.functional.cosine_similarity(norms_LN[:, None], norms_LN[None], dim=-1)
        count = len(cosines_LL)
        found.append(float((count**2 - cosines_LL.sum()) / (count**2 - count)))
    return sum(found) / len(found)


def targets_of(case: Case, spec: PruneSpec, model: StreamedModel, samples: Samples) -> Mapping[str, Target]:
    """The targets that the service would choose, or those by the languages' disagreement."""
    watched = RecordingObserver(), Stopwatch()
    if not case.sign:
        return allocate(model, spec, samples[0], *watched)
    pruning = spec.pruning.resolved()
    assert pruning.sparsity is not None
    signals, blocks = judge_blocks(model, spec, samples[0], *watched, lambda layers: case.sign * disagreement(layers))
    shares = layer_sparsities(signals, blocks, pruning.sparsity, DEFAULT_SPAN, pruning.effective_group)
    return {name: Unstructured(share, pruning.effective_group) for name, share in shares.items()}


def prune(case: Case, folder: Path, samples: Samples) -> dict[str, Any]:
    """Run one job's passes; returns dense and pruned perplexity per language."""
    calibration, evaluation = samples
    began = time.process_time()
    model = StreamedModel(open_checkpoint(folder), torch.device("cpu"), torch.float32)
    spec = specification(case, folder, samples)
    with tempfile.TemporaryDirectory() as work:
        result = prune_tokens(
            model,
            calibration,
            evaluation,
            Path(work),
            recipe=spec.pruning.recipe,
            target=targets_of(case, spec, model, samples),
            order=spec.pruning.order,
            mix=spec.calibration.mix,
            minimax=case.policy == "minimax",
        )
    figures = {
        name: [math.exp(losses[name].nats / losses[name].tokens) for losses in (result.dense, result.pruned)]
        for name in evaluation
    }
    return {"perplexity": figures, "cpu_seconds": round(time.process_time() - began, 2)}


class Growth(NamedTuple):
    """Pruned / dense perplexity over seeds: the mean of all languages, the worst language's, and its name."""

    mean: float
    worst: float
    language: str


def summary(results: Sequence[Mapping[str, Any]]) -> Growth:
    """Geometric means over the seeds."""
    growths: dict[str, float] = {}
    for result in results:
        for language, (dense, pruned) in result["perplexity"].items():
            growths[language] = growths.get(language, 0.0) + math.log(pruned / dense) / len(results)
    worst = max(growths, key=lambda language: growths[language])
    return Growth(math.exp(sum(growths.values()) / len(growths)), math.exp(growths[worst]), worst)


def draw(rows: Mapping[Case, Growth], path: Path) -> None:
    """One panel per question and recipe: two bars per answer."""
    panels = list(dict.fromkeys((case.question, case.recipe) for case in rows))
    figure, axes = plt.subplots(2, math.ceil(len(panels) / 2), figsize=(11, 6.5), squeeze=False)
    for place, (question, recipe) in zip(axes.flat, panels, strict=True):
        chosen = {case.answer: row for case, row in rows.items() if (case.question, case.recipe) == (question, recipe)}
        sparsity = ALLOCATION_SPARSITY if question == "allocation" else MIX_SPARSITY
        for offset, title in enumerate(("mean of all languages", "worst language")):
            for position, row in enumerate(chosen.values()):
                value, mark = (row.worst, row.language) if offset else (row.mean, "")
                height = position + 0.4 * offset
                bar = place.barh(height, value - 1, 0.4, left=1, color=COLOURS[offset])
                bar.set_label(title if position == 0 else "")
                place.text(value, height, f" {value:.3f} {mark}", va="center", fontsize=8)
        place.set_yticks([position + 0.2 for position in range(len(chosen))], list(chosen))
        place.invert_yaxis()
        place.set_xlim(1, 1 + 1.3 * (max(row.worst for row in chosen.values()) - 1))
        place.set_title(f"{question}, {recipe}, {sparsity:.0%}", fontsize=10)
    figure.legend(*axes[0][0].get_legend_handles_labels(), fontsize=8, loc="lower right")
    figure.supxlabel("pruned / dense perplexity (lower is better)", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Fill the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="en", help="the language of the calibration on one language")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--sequences", type=int, default=16, help="calibration sequences per language")
    parser.add_argument("--tokens", type=int, default=4096, help="evaluation tokens per language")
    parser.add_argument("--length", type=int, default=256, help="tokens per sequence")
    with options_with_text(parser, seeds=[0], sequences=1, tokens=SMALL_LENGTH, length=SMALL_LENGTH) as options:
        fill(options)


def fill(options: argparse.Namespace) -> None:
    """Run what is missing; print and draw the tables."""
    languages = sorted(path.stem for path in options.calibration.glob("*.txt"))
    path = options.output / "languages.json"
    settings = {
        "languages": languages,
        "only": options.only,
        "sequences": options.sequences,
        "tokens": options.tokens,
        "length": options.length,
        "separator": options.separator,
        "order": ORDER,
    }
    content = json.loads(path.read_text()) if path.exists() else {"settings": settings, "results": {}}
    if content["settings"] != settings:
        raise SystemExit(f"{path} was made with other settings, {content['settings']}; move it away")
    results = content["results"]
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    for seed in options.seeds:
        drawn: dict[bool, Samples] = {}
        for only in (False, True):
            mix = [options.only] if only else languages
            drawn[only] = draw_samples(
                tokenizer,
                calibration=FolderCorpus(options.calibration),
                evaluation=FolderCorpus(options.evaluation),
                languages=mix,
                evaluation_languages=languages,
                sequences=options.sequences * len(languages) // len(mix),
                evaluation_tokens=options.tokens,
                sequence_length=options.length,
                seed=seed,
                separator=options.separator,
                check=lambda: None,
            )
        for case in cases():
            key = f"{case.key}/{seed}"
            if key not in results:
                results[key] = prune(case, options.model, drawn[case.only])
                path.write_text(json.dumps(content, indent=1) + "\n")
                mean, worst, language = summary([results[key]])
                seconds = results[key]["cpu_seconds"]
                print(f"{key:<52} mean {mean:8.4f}  worst {worst:8.4f} {language:<4} {seconds:7.1f} CPU s", flush=True)
    rows = {case: summary([results[f"{case.key}/{seed}"] for seed in options.seeds]) for case in cases()}
    print(f"\n{'question':<12}{'recipe':<22}{'answer':<26}{'mean':>9}{'worst':>9}")
    for case, (mean, worst, language) in rows.items():
        print(f"{case.question:<12}{case.recipe:<22}{case.answer:<26}{mean:9.4f}{worst:9.4f} {language}")
    draw(rows, options.output / "languages.png")
    print(f"written: {path}, {options.output / 'languages.png'}")


if __name__ == "__main__":
    main()
