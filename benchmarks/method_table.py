"""The table that decides the defaults: every mask with every update, by order, target, seed and language.

Some recipes are also run with the dense model's output as their target, or followed by training the blocks.

    python benchmarks/method_table.py --model DIR --calibration DIR --evaluation DIR [--seeds 0 1 2] [--targets 0.5 2:4]
    python benchmarks/method_table.py --small [--output DIR]

Prunes the model in this process, calibrated equally on all languages of the folder. Every result is immediately written
to benchmarks/results/method_table.json and not recomputed, so that the command can be interrupted and repeated. Prints
and draws the geometric mean over languages of pruned / dense perplexity, averaged over the seeds.
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
from small import LENGTH as SMALL_LENGTH
from small import options_with_text
from transformers import AutoTokenizer

from secateur_service.calibration.corpora import FolderCorpus
from secateur_service.calibration.sampling import TextSample, draw_samples
from secateur_service.library import prune_tokens
from secateur_service.pruning.methods import METHODS, Recipe, label
from secateur_service.pruning.patterns import NofM, Target, Unstructured
from secateur_service.spec import ReconstructionSpec
from secateur_service.spec.pruning import DEFAULT_ORDER

mpl.use("Agg")
import matplotlib.pyplot as plt

RECIPES = [*itertools.product(("wanda", "ria", "sparsegpt"), ("none", "cg", "obs")), ("alps", "admm")]
# Enough to judge this order; the other orders are run with every recipe.
RECIPES_IN_DENSE_ORDER = [("wanda", "none"), ("sparsegpt", "obs"), ("sparsegpt", "cg"), ("alps", "admm")]
# In the default order: the dense model's output as the target, or the blocks trained.
ASYMMETRIC, TRAINED = f"{DEFAULT_ORDER}, asymmetric", f"{DEFAULT_ORDER}, trained"
RECIPES_ASYMMETRIC = [("ria", "cg"), ("sparsegpt", "obs"), ("sparsegpt", "cg"), ("alps", "admm")]
RECIPES_TRAINED = [("sparsegpt", "cg"), ("alps", "admm")]
COLOURS = ("#1d6b4f", "#c9a227", "#7a4b94", "#b5523b", "#3f6fa8")
Samples = tuple[dict[str, TextSample], dict[str, TextSample]]


def parse_target(text: str, method: str) -> Target:
    """Parse `0.5` or `2:4`; weights compete as they do by default in the method."""
    if ":" in text:
        kept, group = text.split(":")
        return NofM(int(kept), int(group))
    return Unstructured(float(text), METHODS[method].group)


def prune(model: Path, samples: Samples, recipe: Recipe, target: Target, order: str) -> dict[str, Any]:
    """Run one pass; returns dense and pruned perplexity per language."""
    calibration, evaluation = samples
    began = time.process_time()
    how: dict[str, Any] = {"recipe": recipe, "target": target, "order": order.partition(",")[0]}
    how["asymmetric"] = "asymmetric" in order
    if "trained" in order:
        asked: dict[str, Any] = {"epochs": 3} if "3 epochs" in order else {}
        how["reconstruction"] = ReconstructionSpec(norms="norms" in order, **asked)
    with tempfile.TemporaryDirectory() as folder:
        result = prune_tokens(model, calibration, evaluation, Path(folder), **how)
    figures = {
        name: [math.exp(losses[name].nats / losses[name].tokens) for losses in (result.dense, result.pruned)]
        for name in evaluation
    }
    return {"perplexity": figures, "cpu_seconds": round(time.process_time() - began, 2)}


def sampled(
    options: argparse.Namespace, tokenizer: Any, languages: list[str], seed: int, calibrated: list[str] | None = None
) -> Samples:
    """Text for evaluation, and for calibration in the same languages or in others."""
    return draw_samples(
        tokenizer,
        calibration=FolderCorpus(options.calibration),
        evaluation=FolderCorpus(options.evaluation),
        languages=calibrated or languages,
        evaluation_languages=languages,
        sequences=options.sequences,
        evaluation_tokens=options.tokens,
        sequence_length=options.length,
        seed=seed,
        separator=options.separator,
        check=lambda: None,
    )


def is_run(order: str, recipe: tuple[str, str]) -> bool:
    """Whether a recipe is run in an order."""
    only = {
        "dense": RECIPES_IN_DENSE_ORDER,
        ASYMMETRIC: RECIPES_ASYMMETRIC,
        TRAINED: RECIPES_TRAINED,
    }
    return recipe in only.get(order, RECIPES)


def growth(result: dict[str, Any]) -> float:
    """Geometric mean over languages of pruned / dense perplexity."""
    logs = [math.log(pruned / dense) for dense, pruned in result["perplexity"].values()]
    return math.exp(sum(logs) / len(logs))


def draw(table: dict[str, dict[str, dict[str, float]]], targets: list[str], path: Path) -> None:
    """One panel per target, one bar per recipe and order."""
    names, orders = list(table), list(dict.fromkeys(order for rows in table.values() for order in rows))
    figure, panels = plt.subplots(1, len(targets), figsize=(3.4 * len(targets) + 1.5, 5.5), sharey=True, squeeze=False)
    for axes, target in zip(panels[0], targets, strict=True):
        for offset, order in enumerate(orders):
            height = 0.8 / len(orders)
            shift = (offset - (len(orders) - 1) / 2) * height
            bars = {row + shift: table[name][order][target] for row, name in enumerate(names) if order in table[name]}
            rows, values = list(bars), list(bars.values())
            axes.barh(rows, [value - 1 for value in values], height, left=1, color=COLOURS[offset], label=order)
            for row, value in zip(rows, values, strict=True):
                axes.text(value, row, f" {value:.3f}", va="center", fontsize=6)
        axes.set_title(f"target {target}", fontsize=10)
        longest = max(row[target] for orders_of in table.values() for row in orders_of.values())
        axes.set_xlim(1, 1 + 1.25 * (longest - 1))
    panels[0][0].set_yticks(range(len(names)), names)
    panels[0][0].invert_yaxis()  # shared by all panels: list recipes from the top
    panels[0][-1].legend(title="order", fontsize=8, loc="lower right")
    figure.supxlabel("pruned / dense perplexity, geometric mean over languages (lower is better)", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Fill the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", default=["0.5", "0.6", "0.7", "2:4"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    orders = ["block", "true_sequential", ASYMMETRIC, TRAINED, "dense"]
    parser.add_argument("--orders", nargs="+", choices=orders, default=orders)
    parser.add_argument("--sequences", type=int, default=8, help="calibration sequences per language, at least 2")
    parser.add_argument("--tokens", type=int, default=1024, help="evaluation tokens per language")
    parser.add_argument("--length", type=int, default=256, help="tokens per sequence")
    small = {"targets": ["0.5", "2:4"], "orders": [DEFAULT_ORDER, TRAINED], "seeds": [0], "sequences": 2}
    with options_with_text(parser, **small, tokens=SMALL_LENGTH, length=SMALL_LENGTH) as options:
        fill(options)


def fill(options: argparse.Namespace) -> None:
    """Run what is missing; print and draw the table."""
    languages = sorted(path.stem for path in options.calibration.glob("*.txt"))
    path = options.output / "method_table.json"
    settings = {
        "languages": languages,
        "sequences": options.sequences,
        "tokens": options.tokens,
        "length": options.length,
        "separator": options.separator,
    }
    content = json.loads(path.read_text()) if path.exists() else {"settings": settings, "results": {}}
    if content["settings"] != settings:
        raise SystemExit(f"{path} was made with other settings, {content['settings']}; move it away")
    results = content["results"]
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    for seed in options.seeds:
        samples = sampled(options, tokenizer, languages, seed)
        for order, target, (method, update) in itertools.product(options.orders, options.targets, RECIPES):
            key = f"{order}/{method}/{update}/{target}/{seed}"
            if key not in results and is_run(order, (method, update)):
                recipe = Recipe.of(method, update)
                results[key] = prune(options.model, samples, recipe, parse_target(target, method), order)
                path.write_text(json.dumps(content, indent=1) + "\n")
                print(
                    f"{key:<44} growth {growth(results[key]):.4f}  {results[key]['cpu_seconds']:7.1f} CPU s", flush=True
                )
    table = {
        label(method, update): {
            order: {
                target: sum(growth(results[f"{order}/{method}/{update}/{target}/{seed}"]) for seed in options.seeds)
                / len(options.seeds)
                for target in options.targets
            }
            for order in options.orders
            if is_run(order, (method, update))
        }
        for method, update in RECIPES
    }
    print(f"\n{'recipe':<22}{'order':<26}" + "".join(f"{target:>10}" for target in options.targets))
    for name, rows in table.items():
        for order, row in rows.items():
            print(f"{name:<22}{order:<26}" + "".join(f"{row[target]:10.4f}" for target in options.targets))
    draw(table, options.targets, options.output / "method_table.png")
    print(f"written: {path}, {options.output / 'method_table.png'}")


if __name__ == "__main__":
    main()
