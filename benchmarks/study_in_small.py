"""A small version of the study: calibrate on one language at a time, evaluate on all, and see what each choice keeps.

    python benchmarks/study_in_small.py --model DIR --calibration DIR --evaluation DIR [--work DIR] [--output DIR]
    python benchmarks/study_in_small.py --small

Prunes the model once per language of the calibration folder (Wanda at 60 %, using `secateur-service run`, so that an
interrupted study resumes where it stopped), and writes the matrix of perplexities as JSON and as a heat map to
benchmarks/results/. The question is from Kurz et al., 2408.14398: does calibrating on a language keep it best?
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from jobs import run_job
from small import LENGTH, options_with_text

mpl.use("Agg")
import matplotlib.pyplot as plt


def prune(calibration_language: str, languages: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Run one job; returns its summary."""
    spec = {
        "model": {"uri": options.model.resolve().as_uri()},
        "calibration": {
            "corpus": options.calibration.resolve().as_uri(),
            "languages": {calibration_language: 1.0},
            "samples": options.samples,
            "sequence_length": options.length,
            "document_separator": options.separator,
            "seed": options.seed,
        },
        "pruning": {"method": options.method, "sparsity": options.sparsity, "order": "block"},
        "evaluation": {
            "corpus": options.evaluation.resolve().as_uri(),
            "languages": languages,
            "tokens_per_language": options.tokens,
            "continuations": 0,
        },
    }
    return run_job(spec, options.work / calibration_language)


def draw(languages: list[str], ratios: list[list[float]], title: str, path: Path) -> None:
    """Heat map of perplexity ratios; rows are calibration languages, columns evaluation languages."""
    figure, axes = plt.subplots(figsize=(1.1 * len(languages) + 2, 1.0 * len(languages) + 1))
    # A column's colours compare calibration languages for one evaluation language.
    columns = list(zip(*ratios, strict=True))
    shades = [
        [(value - min(columns[j])) / ((max(columns[j]) - min(columns[j])) or 1) for j, value in enumerate(row)]
        for row in ratios
    ]
    axes.imshow(shades, cmap="YlOrRd", aspect="auto", vmin=0, vmax=1.3)
    for i, row in enumerate(ratios):
        for j, value in enumerate(row):
            best = value == min(columns[j])
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontweight="bold" if best else "normal")
    axes.set_xticks(range(len(languages)), languages)
    axes.set_yticks(range(len(languages)), languages)
    axes.set_xlabel("evaluated on")
    axes.set_ylabel("calibrated on")
    axes.set_title(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/study"), help="where the jobs are kept")
    parser.add_argument("--method", default="wanda")
    parser.add_argument("--sparsity", type=float, default=0.6)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=16384, help="evaluation tokens per language")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--length", type=int, default=256, help="tokens per sequence")
    with options_with_text(parser, samples=4, tokens=2 * LENGTH, length=LENGTH) as options:
        study(options)


def study(options: argparse.Namespace) -> None:
    """Prune once per language; print, draw and save the results."""
    languages = sorted(path.stem for path in options.calibration.glob("*.txt"))
    runs = {language: prune(language, languages, options) for language in languages}
    dense = {name: figures["dense"] for name, figures in runs[languages[0]]["perplexity"].items()}
    matrix = [[runs[row]["perplexity"][column]["pruned"] for column in languages] for row in languages]
    ratios = [[value / dense[column] for value, column in zip(row, languages, strict=True)] for row in matrix]
    print("pruned perplexity; rows: calibrated on, columns: evaluated on")
    print("      " + "".join(f"{name:>9}" for name in languages))
    print("dense " + "".join(f"{dense[name]:9.2f}" for name in languages))
    for name, row in zip(languages, matrix, strict=True):
        print(f"{name:<6}" + "".join(f"{value:9.2f}" for value in row))
    best = {
        column: languages[min(range(len(languages)), key=lambda i: matrix[i][j])] for j, column in enumerate(languages)
    }
    print("best calibration language of each column:", ", ".join(f"{name}: {row}" for name, row in best.items()))
    title = f"Perplexity, pruned / dense ({options.method}, {options.sparsity:.0%}; bold: best of its column)"
    settings = {
        name: getattr(options, name)
        for name in ("method", "sparsity", "samples", "tokens", "length", "separator", "seed")
    }
    content = {"settings": settings, "languages": languages, "dense": dense, "pruned": matrix, "best": best}
    (options.output / "study_in_small.json").write_text(json.dumps(content, indent=1) + "\n")
    draw(languages, ratios, title, options.output / "study_in_small.png")
    print(f"written: {options.output / 'study_in_small.json'}, {options.output / 'study_in_small.png'}")


if __name__ == "__main__":
    main()
