"""The table that decides the defaults: every mask with every update, at several targets and seeds, per language.

    python benchmarks/method_table.py --model DIR --calibration DIR --evaluation DIR [--seeds 0 1 2] [--targets 0.5 2:4]

Prunes the model in this process, calibrated on all languages of the folder in equal parts. Every result is written to
benchmarks/results/method_table.json at once and is not computed again, so that the command can be interrupted and
repeated. Prints, and draws, the geometric mean over languages of pruned / dense perplexity, averaged over the seeds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from transformers import AutoTokenizer

from secateur_service.calibration.corpora import Corpus
from secateur_service.calibration.sampling import TextSample, draw_samples
from secateur_service.models.checkpoint import open_checkpoint
from secateur_service.models.streaming import StreamedModel
from secateur_service.pipeline.ledger import FileLedger
from secateur_service.pipeline.observer import RecordingObserver
from secateur_service.pipeline.stopwatch import Stopwatch
from secateur_service.pipeline.streaming_pass import Task, run_pass
from secateur_service.pruning.methods import METHODS, UPDATES, goes_together, recipe
from secateur_service.pruning.patterns import NofM, Target, Unstructured

mpl.use("Agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parent / "results"
RECIPES = [pair for pair in itertools.product(METHODS, UPDATES) if goes_together(*pair)]
Samples = tuple[dict[str, TextSample], dict[str, TextSample]]


def parse_target(text: str) -> Target:
    """`0.5` or `2:4`."""
    if ":" in text:
        kept, group = text.split(":")
        return NofM(int(kept), int(group))
    return Unstructured(float(text))


def prune(model: Path, samples: Samples, method: str, update: str, target: Target) -> dict[str, Any]:
    """One pass; returns dense and pruned perplexity per language."""
    calibration, evaluation = samples
    weights = dict.fromkeys(calibration, 1 / len(calibration))
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        task = Task(method, update, target, weights, calibration, evaluation, Path(folder))
        streamed = StreamedModel(open_checkpoint(model), torch.device("cpu"), torch.float32)
        ledger = FileLedger(Path(folder) / "ledger.json")
        result = run_pass(streamed, task, ledger, RecordingObserver(), Stopwatch())
    figures = {
        name: [math.exp(losses[name].nats / losses[name].tokens) for losses in (result.dense, result.pruned)]
        for name in evaluation
    }
    return {"perplexity": figures, "cpu_seconds": round(time.process_time() - began, 2)}


def growth(result: dict[str, Any]) -> float:
    """Geometric mean over languages of pruned / dense perplexity."""
    logs = [math.log(pruned / dense) for dense, pruned in result["perplexity"].values()]
    return math.exp(sum(logs) / len(logs))


def draw(table: dict[str, dict[str, float]], targets: list[str], path: Path) -> None:
    """One panel per target, one bar per recipe."""
    figure, panels = plt.subplots(1, len(targets), figsize=(3.2 * len(targets) + 1.5, 4), sharey=True, squeeze=False)
    names = list(table)
    for axes, target in zip(panels[0], targets, strict=True):
        values = [table[name][target] for name in names]
        axes.barh(names, [value - 1 for value in values], left=1, color="#1d6b4f")
        for position, value in enumerate(values):
            axes.text(value, position, f" {value:.3f}", va="center", fontsize=8)
        axes.set_title(f"target {target}", fontsize=10)
        axes.set_xlim(1, 1 + 1.25 * (max(values) - 1))
    panels[0][0].invert_yaxis()  # they share it: best read from the first recipe down
    figure.supxlabel("pruned / dense perplexity, geometric mean over languages (lower is better)", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Fill the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, required=True, help="folder with one text file per language")
    parser.add_argument("--evaluation", type=Path, required=True, help="folder with the same files, other text")
    parser.add_argument("--targets", nargs="+", default=["0.5", "0.6", "0.7", "2:4"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--sequences", type=int, default=16, help="calibration sequences of 256 tokens per language")
    parser.add_argument("--tokens", type=int, default=4096, help="evaluation tokens per language")
    options = parser.parse_args()
    languages = sorted(path.stem for path in options.calibration.glob("*.txt"))
    path = RESULTS / "method_table.json"
    settings = {"languages": languages, "sequences": options.sequences, "tokens": options.tokens, "order": "block"}
    content = json.loads(path.read_text()) if path.exists() else {"settings": settings, "results": {}}
    if content["settings"] != settings:
        parser.error(f"{path} was made with other settings, {content['settings']}; move it away")
    results = content["results"]
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    for seed in options.seeds:
        samples = draw_samples(
            tokenizer,
            calibration=Corpus(options.calibration),
            evaluation=Corpus(options.evaluation),
            languages=languages,
            evaluation_languages=languages,
            sequences=options.sequences,
            evaluation_tokens=options.tokens,
            sequence_length=256,
            seed=seed,
            check=lambda: None,
        )
        for target, (method, update) in itertools.product(options.targets, RECIPES):
            key = f"{method}/{update}/{target}/{seed}"
            if key not in results:
                results[key] = prune(options.model, samples, method, update, parse_target(target))
                path.write_text(json.dumps(content, indent=1) + "\n")
                print(
                    f"{key:<28} growth {growth(results[key]):.4f}  {results[key]['cpu_seconds']:7.1f} CPU s", flush=True
                )
    table = {
        recipe(method, update): {
            target: sum(growth(results[f"{method}/{update}/{target}/{seed}"]) for seed in options.seeds)
            / len(options.seeds)
            for target in options.targets
        }
        for method, update in RECIPES
    }
    print(f"\n{'recipe':<24}" + "".join(f"{target:>10}" for target in options.targets))
    for name, row in table.items():
        print(f"{name:<24}" + "".join(f"{row[target]:10.4f}" for target in options.targets))
    draw(table, options.targets, RESULTS / "method_table.png")
    print(f"written: {path}, {RESULTS / 'method_table.png'}")


if __name__ == "__main__":
    main()
