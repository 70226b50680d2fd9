"""What it costs to divide a job among processes, on your own model and text; and whether the bytes are the same.

    python benchmarks/processes.py --model DIR --calibration DIR --evaluation DIR [--recipes wanda] [--counts 1 2 4]
    python benchmarks/processes.py --small [--output DIR]

For each recipe and number of processes, one pass on one thread per process: its processor seconds, of all processes
together and without their start; its wall seconds, which say little where there are fewer cores than processes; the
largest share of the model's bytes that a process read; and whether all blocks, their records and the losses equal those
of one process. Recipes that make the model smaller are whole jobs, with all that comes before the pass and with the
start of the processes; what is compared are the files that they publish. Every result is immediately written to
benchmarks/results/processes-{model}.json and not recomputed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from small import LENGTH, options_with_text
from transformers import AutoTokenizer

from secateur_service.calibration.corpora import FolderCorpus
from secateur_service.calibration.sampling import draw_samples
from secateur_service.library import prune, prune_tokens
from secateur_service.pipeline.observer import RecordingObserver
from secateur_service.pipeline.streaming_pass import PassResult
from secateur_service.pipeline.team import Team
from secateur_service.pruning.methods import METHODS, Recipe
from secateur_service.pruning.patterns import NofM, Unstructured

SPARSITY = 0.6
SMALLER: dict[str, dict[str, Any]] = {
    "fewer rows, blocks, heads and channels": {
        "vocabulary": {"extra_tokens": 0.02},
        "blocks": {"remove": 1},
        "kv_heads": {"remove": 1},
        "feed_forward": {"share": 0.25},
    },
    "budget": {"budget": {"parameters": 0.7}},
}
RECIPES: dict[str, dict[str, Any]] = {
    "wanda": {"recipe": Recipe.of("wanda")},
    "wanda 2:4": {"recipe": Recipe.of("wanda"), "target": NofM(2, 4)},
    "ria with cg": {"recipe": Recipe.of("ria", "cg")},
    "sparsegpt with cg": {"recipe": Recipe.of("sparsegpt"), "asymmetric": True},
    "alps": {"recipe": Recipe.of("alps"), "asymmetric": True},
    "wanda with cg, minimax": {"recipe": Recipe.of("wanda", "cg"), "minimax": True},
}


def main() -> None:
    """Measure what is missing and print all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--languages", nargs="+", default=["de", "uk"])
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--length", type=int, default=512)
    recipes = [*RECIPES, *SMALLER]
    parser.add_argument("--recipes", nargs="+", default=recipes, choices=recipes)
    parser.add_argument("--counts", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--evaluation-tokens", type=int, default=8192, help="of each language")
    torch.set_num_threads(1)
    small: dict[str, Any] = {"sequences": 4, "length": LENGTH, "evaluation_tokens": 2 * LENGTH}
    small |= {"languages": ["de", "en"], "recipes": ["wanda", next(iter(SMALLER))], "counts": [1, 2]}
    with options_with_text(parser, **small) as options:
        fill(options)


def fill(options: argparse.Namespace) -> None:
    """Measure what is missing, and print the table."""
    samples = draw_samples(
        AutoTokenizer.from_pretrained(options.model),
        calibration=FolderCorpus(options.calibration),
        evaluation=FolderCorpus(options.evaluation),
        languages=options.languages,
        evaluation_languages=options.languages,
        sequences=options.sequences,
        evaluation_tokens=options.evaluation_tokens,
        sequence_length=options.length,
        seed=0,
        check=lambda: None,
    )
    path = options.output / f"processes-{options.model.resolve().name}.json"
    found = json.loads(path.read_text()) if path.exists() else {}

    def keep(key: str, entry: dict[str, Any]) -> None:
        found[key] = entry
        path.write_text(json.dumps(found, indent=1) + "\n")

    for count in options.counts:
        left = [recipe for recipe in options.recipes if f"{recipe}, {count}" not in found]
        passes = [recipe for recipe in left if recipe in RECIPES]
        with Team(count, lambda: None) if passes and count > 1 else contextlib.nullcontext() as team:
            for recipe in passes:
                keep(f"{recipe}, {count}", measure(options.model, samples, recipe, team))
        for recipe in left:
            if recipe in SMALLER:
                keep(f"{recipe}, {count}", measure_smaller(options, recipe, count))
    show(found)


def measure(model: Path, samples: Any, recipe: str, team: Team | None) -> dict[str, Any]:
    """One pass."""
    how = dict(RECIPES[recipe])
    target = how.pop("target", Unstructured(SPARSITY, METHODS[recipe.split(maxsplit=1)[0]].group))
    wall, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        result = prune_tokens(model, *samples, Path(folder), target=target, layer_snr=True, team=team, **how)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    used = team.used if team else []
    read = [each.bytes_read for each in used]
    return {
        "cpu_seconds": cpu + sum(each.cpu_seconds for each in used[1:]),
        "seconds": wall,
        "start_cpu_seconds": sum(each.start_cpu_seconds for each in used[1:]),
        "largest_share_read": max(read) / sum(read) if read else 1.0,
        "digest": digest_of(result),
    }


def measure_smaller(options: argparse.Namespace, recipe: str, count: int) -> dict[str, Any]:
    """One job that makes the model smaller."""
    spec = {
        "model": {"uri": options.model.resolve().as_uri()},
        "calibration": {
            "corpus": options.calibration.resolve().as_uri(),
            "languages": {name: 1 / len(options.languages) for name in options.languages},
            "samples": options.sequences * len(options.languages),
            "sequence_length": options.length,
        },
        "pruning": {"method": "wanda", "sparsity": 0.3},
        "shrink": SMALLER[recipe],
        "evaluation": {
            "corpus": options.evaluation.resolve().as_uri(),
            "languages": options.languages,
            "tokens_per_language": options.evaluation_tokens,
            "continuations": 0,
        },
    }
    observer = RecordingObserver()
    with tempfile.TemporaryDirectory() as folder:
        finished = prune(spec, Path(folder), device="cpu", threads=1, processes=count, observer=observer)
        published = [*Path(folder, "checkpoint").iterdir(), Path(folder, "report", "report.json")]
        digests = sorted((path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in published)
    read = next((fields["bytes_read"] for _, _, fields in observer.lines if "bytes_read" in fields), [])
    return {
        "cpu_seconds": finished.cpu_seconds["total"],
        "seconds": finished.seconds["total"],
        "largest_share_read": max(read) / sum(read) if read else 1.0,
        "digest": hashlib.sha256(repr(digests).encode()).hexdigest()[:16],
    }


def digest_of(result: PassResult) -> str:
    """Of everything that a pass says, but for the time that it took."""
    blocks = [(block.shard, block.sha256, block.layers, block.snr_db) for block in result.blocks]
    told = repr([blocks, result.dense, result.pruned, result.likeness])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def show(found: dict[str, dict[str, Any]]) -> None:
    """Print a table."""
    print("| recipe | processes | processor seconds | of one process | largest share read | same bytes |")
    print("|---|---|---|---|---|---|")
    for key, entry in found.items():
        recipe, _, count = key.rpartition(", ")
        one = found.get(f"{recipe}, 1")
        ratio = f"×{entry['cpu_seconds'] / one['cpu_seconds']:.2f}" if one else ""
        same = ("yes" if entry["digest"] == one["digest"] else "NO") if one else ""
        share = entry["largest_share_read"]
        print(f"| {recipe} | {count} | {entry['cpu_seconds']:.1f} | {ratio} | {share:.3f} | {same} |")


if __name__ == "__main__":
    main()
