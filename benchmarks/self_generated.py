"""What calibration text that the model writes itself is worth, beside the corpus that it begins from.

    python benchmarks/self_generated.py --model DIR --calibration DIR --evaluation DIR [--work DIR] [--output DIR]
    python benchmarks/self_generated.py --small

Five calibrations of the same model (by `secateur-service run`, so that an interrupted benchmark goes on where it
stopped): the whole corpus; text that the model wrote from a few tokens of its documents on; a poor corpus of some dozen
sentences of each language, as far as it goes; text written from those; English alone. Prints how much the perplexity of
each language grew. Kept in benchmarks/results/self_generated.json.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from jobs import run_job
from small import LENGTH, options_with_text


def poor_corpus(whole: Path, folder: Path, sentences: int) -> Path:
    """The first sentences of each language."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in whole.glob("*.txt"):
        lines = path.read_text(encoding="utf-8").splitlines()[:sentences]
        (folder / path.name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def prune(name: str, calibration: dict[str, Any], options: argparse.Namespace) -> dict[str, float]:
    """Run one job; returns the growth of every language's perplexity."""
    spec = {
        "model": {"uri": options.model.resolve().as_uri()},
        "calibration": {
            "sequence_length": options.length,
            "document_separator": options.separator,
            "seed": options.seed,
            **calibration,
        },
        "pruning": {"sparsity": options.sparsity, **({"method": options.method} if options.method else {})},
        "evaluation": {
            "corpus": options.evaluation.resolve().as_uri(),
            "languages": sorted(path.stem for path in options.evaluation.glob("*.txt")),
            "tokens_per_language": options.tokens,
        },
    }
    figures = run_job(spec, options.work / name)["perplexity"]
    return {language: entry["pruned"] / entry["dense"] for language, entry in figures.items()}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/self_generated"), help="where the jobs are kept")
    parser.add_argument("--method", help="default: the service's")
    parser.add_argument("--sparsity", type=float, default=0.6)
    parser.add_argument("--samples", type=int, default=20, help="sequences per language")
    parser.add_argument("--prefix-tokens", type=int, default=4)
    parser.add_argument("--sentences", type=int, default=40, help="of the poor corpus, per language")
    parser.add_argument("--poor-samples", type=int, default=2, help="sequences per language that the poor corpus has")
    parser.add_argument("--tokens", type=int, default=16384, help="evaluation tokens per language")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--length", type=int, default=256, help="tokens per sequence")
    small = {"samples": 1, "poor_samples": 1, "sentences": 4, "tokens": LENGTH, "length": LENGTH}
    with options_with_text(parser, **small) as options:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Prune under every condition; print and keep what was found."""
    languages = sorted(path.stem for path in options.calibration.glob("*.txt"))
    corpus = options.calibration.resolve().as_uri()
    poor = poor_corpus(options.calibration, options.work / "poor", options.sentences).resolve().as_uri()
    writes = {"generation": {"prefix_tokens": options.prefix_tokens}}
    samples = options.samples * len(languages)
    conditions = {
        "corpus": {"corpus": corpus, "languages": languages, "samples": samples},
        "written from the corpus": {"corpus": corpus, "languages": languages, "samples": samples, **writes},
        "poor corpus": {"corpus": poor, "languages": languages, "samples": options.poor_samples * len(languages)},
        "written from the poor corpus": {"corpus": poor, "languages": languages, "samples": samples, **writes},
        "English alone": {"corpus": corpus, "languages": ["en"], "samples": samples},
    }
    growth = {name: prune(name.replace(" ", "-"), part, options) for name, part in conditions.items()}
    print(f"{'growth of perplexity':<30}" + "".join(f"{language:>8}" for language in languages) + "    mean")
    means = {}
    for name, row in growth.items():
        means[name] = math.exp(sum(map(math.log, row.values())) / len(row))
        print(f"{name:<30}" + "".join(f"{row[language]:8.3f}" for language in languages) + f"{means[name]:8.3f}")
    kept = (
        "method",
        "sparsity",
        "samples",
        "prefix_tokens",
        "sentences",
        "poor_samples",
        "tokens",
        "separator",
        "seed",
    )
    content = {"settings": {name: getattr(options, name) for name in kept}, "growth": growth, "mean": means}
    (options.output / "self_generated.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
