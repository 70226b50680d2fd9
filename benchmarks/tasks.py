"""What calibration does to tasks: cloze questions in several languages, calibrated on English and on the languages.

    python benchmarks/tasks.py --model DIR --calibration DIR --evaluation DIR [--languages de uk en] [--items 200]
    python benchmarks/tasks.py --small

The questions are made from the sentences of the evaluation folder, which calibration does not see: a sentence of eight
words or more is cut after three fifths of its words, and its end has to be told from the ends of three others, about as
long, that begin with a small letter if it does. Chance is 25 %. The model is pruned twice, by Wanda without an update,
once calibrated on English and once on the languages, and answers in the same pass as the dense one. Prints and writes
accuracy (by the sum of log-probabilities, and by that per byte), standard errors, paired differences and flips beside
the growth of perplexity: tasks-MODEL.json.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import torch
from small import LENGTH, options_with_text

import secateur
from secateur_service.library import prune

LEAST_WORDS = 8
CHOICES = 4


def questions(sentences: list[str], count: int) -> list[dict[str, Any]]:
    """Cloze questions with four ends each."""
    draw = random.Random(0)
    cut = []
    for sentence in dict.fromkeys(sentences):
        words = sentence.split()
        if len(words) >= LEAST_WORDS:
            at = round(0.6 * len(words))
            cut.append((" ".join(words[:at]), " ".join(words[at:])))
    found = []
    for beginning, end in draw.sample(cut, min(count, len(cut))):
        others = [other for _, other in cut if other != end and other[0].islower() == end[0].islower()]
        nearest = sorted(others, key=lambda other: (abs(len(other) - len(end)), other))[: 8 * CHOICES]
        choices = [*draw.sample(nearest, CHOICES - 1), end]
        draw.shuffle(choices)
        found.append({"beginning": beginning, "choices": choices, "gold": choices.index(end)})
    return found


def write_tasks(options: argparse.Namespace, folder: Path) -> list[str]:
    """One task per language; returns their names."""
    names = []
    for language in options.languages:
        sentences = (options.evaluation / f"{language}.txt").read_text(encoding="utf-8").splitlines()
        rows = [json.dumps(row, ensure_ascii=False) for row in questions(sentences, options.items)]
        (folder / f"{language}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
        task = {
            "task": f"cloze_{language}",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": f"{language}.jsonl"}},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{beginning}}",
            "doc_to_choice": "choices",
            "doc_to_target": "gold",
            "metric_list": [{"metric": "acc"}, {"metric": "acc_bytes"}],
            "metadata": {"language": language},
        }
        (folder / f"{language}.yaml").write_text(json.dumps(task), encoding="utf-8")
        names.append(f"cloze_{language}")
    return names


def measure(options: argparse.Namespace, mix: list[str], names: list[str], tasks: Path) -> dict[str, Any]:
    """Prune for a mix, and return what it cost."""
    spec = secateur.prune_spec(
        options.model.resolve().as_uri(),
        corpus=options.calibration.resolve().as_uri(),
        languages=dict.fromkeys(mix, 1 / len(mix)),
        samples=options.sequences,
        sequence_length=options.length,
        document_separator=options.separator,
        evaluation_corpus=options.evaluation.resolve().as_uri(),
        evaluation_languages=options.languages,
        tokens_per_language=options.tokens,
        continuations=0,
        tasks=names,
        task_files=tasks.resolve().as_uri(),
        task_limit=options.items,
        method=options.method,
        sparsity=options.sparsity,
    )
    with tempfile.TemporaryDirectory() as folder:
        report = prune(spec, Path(folder), threads=torch.get_num_threads()).report
    return {
        "perplexity_ratio": {entry.language: entry.perplexity_ratio for entry in report.evaluation},
        "tasks": [entry.model_dump(mode="json") for entry in report.tasks],
        "verdicts": [verdict.message for verdict in report.verdicts],
    }


def main() -> None:
    """Measure both mixes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--languages", nargs="+", default=["de", "uk", "en"])
    parser.add_argument("--items", type=int, default=200, help="questions per language; default %(default)s")
    parser.add_argument("--method", default="wanda")
    parser.add_argument("--sparsity", type=float, default=0.6)
    parser.add_argument("--sequences", type=int, default=48, help="calibration sequences in all; default %(default)s")
    parser.add_argument("--length", type=int, default=512, help="tokens per sequence; default %(default)s")
    parser.add_argument("--tokens", type=int, default=4096, help="evaluation tokens per language; default %(default)s")
    small = {"languages": ["de", "en"], "items": 4, "sequences": 2, "tokens": 2 * LENGTH, "length": LENGTH}
    with options_with_text(parser, **small) as options, tempfile.TemporaryDirectory() as folder:
        names = write_tasks(options, Path(folder))
        path = options.output / f"tasks-{options.model.resolve().name}.json"
        content = {}
        for mix in (["en"], options.languages):
            content[" ".join(mix)] = found = measure(options, mix, names, Path(folder))
            path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            show(mix, found)
        print(f"written: {path}")


def show(mix: list[str], found: dict[str, Any]) -> None:
    """Print a line for each figure."""
    print(f"calibrated on {' '.join(mix)}")
    for entry in found["tasks"]:
        growth = found["perplexity_ratio"][entry["language"]]
        print(
            f"  {entry['task']:<10} {entry['metric']:<10} dense {entry['dense']:.3f} ± {entry['dense_stderr']:.3f}  "
            f"pruned {entry['pruned']:.3f} ± {entry['pruned_stderr']:.3f}  difference {entry['difference']:+.3f} ± "
            f"{entry['difference_stderr']:.3f}  flips {entry['flips']:.1%}  perplexity ×{growth:.2f}",
            flush=True,
        )
    for message in found["verdicts"]:
        print(f"  - {message}")


if __name__ == "__main__":
    main()
