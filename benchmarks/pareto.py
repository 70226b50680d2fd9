"""Quality against time: what the presets and their neighbours on the curve keep, and what they cost, in one process.

    python benchmarks/pareto.py --model DIR --calibration DIR --evaluation DIR [--target 0.7] [--seeds 0 1 2]
        [--calibrated de uk] [--sequences 8]
    python benchmarks/pareto.py --small [--output DIR]

Prunes the model in this process, calibrated equally on all languages of the folder or on those that are named. Prints,
per way, the growth of perplexity (geometric mean over the languages of the calibration, mean of the seeds), the worst
one's, the growth in the other languages, the share of ALPS' excess that is left, in how many of all languages it is
better than ALPS, and processor time as a ratio to the default's. Writes pareto-MODEL-TARGET.json, or with other than
the usual text pareto-MODEL-TARGET-SEQUENCES-LANGUAGES.json, and draws the same as .png.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from typing import Any

import matplotlib as mpl
from method_table import ASYMMETRIC, DEFAULT_ORDER, TRAINED, parse_target, prune, sampled
from small import LENGTH as SMALL_LENGTH
from small import options_with_text
from transformers import AutoTokenizer

from secateur_service.pruning.methods import Recipe, label

mpl.use("Agg")
import matplotlib.pyplot as plt

BOTH = f"{DEFAULT_ORDER}, asymmetric and trained"
SHORTER, NORMS = f"{TRAINED} for 3 epochs", f"{TRAINED} with norms"
WAYS = [
    (("wanda", "none"), DEFAULT_ORDER),
    (("sparsegpt", "obs"), DEFAULT_ORDER),
    (("sparsegpt", "cg"), DEFAULT_ORDER),
    (("sparsegpt", "cg"), ASYMMETRIC),
    (("alps", "admm"), DEFAULT_ORDER),
    (("alps", "admm"), ASYMMETRIC),
    (("sparsegpt", "cg"), TRAINED),
    (("sparsegpt", "cg"), BOTH),
    (("alps", "admm"), TRAINED),
    (("alps", "admm"), BOTH),
    (("alps", "admm"), SHORTER),
    (("alps", "admm"), NORMS),
]
FAST, BALANCED, BEST = WAYS[2], WAYS[3], WAYS[8]
ALPS = WAYS[4]
PRESETS = {FAST: "fast", BALANCED: "balanced", BEST: "best"}


def name_of(way: tuple[tuple[str, str], str]) -> str:
    """The display name of a way."""
    recipe, order = way
    return label(*recipe) + order.removeprefix(DEFAULT_ORDER)


def worst(result: dict[str, Any], languages: list[str]) -> float:
    """Growth of the perplexity of the language that loses most."""
    return max(pruned / dense for dense, pruned in (result["perplexity"][language] for language in languages))


def grown(own: dict[str, float], languages: list[str]) -> float:
    """Growth of perplexity in some languages."""
    return math.exp(statistics.fmean(own[language] for language in languages))


def logs(results: list[dict[str, Any]]) -> dict[str, float]:
    """Mean over the seeds of log(pruned / dense) of each language."""
    return {
        language: statistics.fmean(
            math.log(pruned / dense) for dense, pruned in (r["perplexity"][language] for r in results)
        )
        for language in results[0]["perplexity"]
    }


def draw(table: dict[str, dict[str, float]], marked: dict[str, str], path: str) -> None:
    """One point per way; the presets are named."""
    figure, axes = plt.subplots(figsize=(8, 5))
    for name, row in table.items():
        is_preset = name in marked
        axes.plot(row["cpu"], row["excess"], "o", color="#1d6b4f" if is_preset else "#8a8a8a")
        text = f"{marked[name]}: {name}" if is_preset else name
        axes.annotate(text, (row["cpu"], row["excess"]), xytext=(6, 4), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(right=5 * max(row["cpu"] for row in table.values()))
    axes.set_xlabel("processor time, 1 = the default")
    axes.set_ylabel("growth of perplexity − 1 (lower is better)")
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run every way on every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="0.7", help="a sparsity or N:M; default %(default)s")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--sequences", type=int, default=8, help="calibration sequences per language, at least 2")
    parser.add_argument("--tokens", type=int, default=4096, help="evaluation tokens per language")
    parser.add_argument("--length", type=int, default=256, help="tokens per sequence")
    parser.add_argument("--calibrated", nargs="+", help="languages of the calibration; default all of the folder")
    parser.add_argument("--presets-only", action="store_true", help="and ALPS, which they are compared with")
    small = {"presets_only": True, "seeds": [0], "sequences": 2, "tokens": SMALL_LENGTH, "length": SMALL_LENGTH}
    with options_with_text(parser, **small) as options:
        languages = sorted(path.stem for path in options.calibration.glob("*.txt"))
        inside = options.calibrated or languages
        outside = [language for language in languages if language not in inside]
        ways = [way for way in WAYS if way in PRESETS or way == ALPS or not options.presets_only]
        found: dict[str, list[dict[str, Any]]] = {name_of(way): [] for way in ways}
        tokenizer = AutoTokenizer.from_pretrained(options.model)
        for seed in options.seeds:
            samples = sampled(options, tokenizer, languages, seed, inside)
            for recipe, order in ways:
                target = parse_target(options.target, recipe[0])
                result = prune(options.model, samples, Recipe.of(*recipe), target, order)
                found[name_of((recipe, order))].append(result)
        baseline, default = logs(found[name_of(ALPS)]), found[name_of(BALANCED)]
        excess = grown(baseline, inside) - 1
        cpu = sum(result["cpu_seconds"] for result in default)
        table = {}
        print(f"{'way':<40}{'growth':>8}{'worst':>8}{'others':>8}{'of ALPS':>9}{'better in':>11}{'CPU':>7}")
        for name, results in found.items():
            own = logs(results)
            growth = grown(own, inside)
            table[name] = {
                "excess": growth - 1,
                "worst": statistics.fmean(worst(result, inside) for result in results),
                **({"others": grown(own, outside)} if outside else {}),
                "of_alps": (growth - 1) / excess,
                "better": sum(own[language] < baseline[language] for language in own),
                "cpu": sum(result["cpu_seconds"] for result in results) / cpu,
            }
            row = table[name]
            print(
                f"{name:<40}{growth:8.4f}{row['worst']:8.4f}{row.get('others', math.nan):8.4f}{row['of_alps']:9.1%}"
                f"{row['better']:>6} of {len(own)}{row['cpu']:7.2f}",
                flush=True,
            )
        name = f"pareto-{options.model.resolve().name}-{options.target.replace(':', '-of-')}"
        if options.calibrated or options.sequences != parser.get_default("sequences"):
            name = "-".join([name, str(options.sequences), *inside])
        path = options.output / f"{name}.json"
        settings = {name: getattr(options, name) for name in ("target", "seeds", "sequences", "tokens", "length")}
        path.write_text(
            json.dumps({"settings": settings, "languages": inside, "others": outside, "ways": table}, indent=1) + "\n"
        )
        draw(table, {name_of(way): preset for way, preset in PRESETS.items()}, str(path.with_suffix(".png")))
        print(f"written: {path}, {path.with_suffix('.png')}")


if __name__ == "__main__":
    main()
