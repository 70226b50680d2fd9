"""Secateur against llm-compressor: the same model, the same tokens, one CPU thread each, in one run.

    python benchmarks/compare_llmcompressor.py [--peer-python PATH] [--repeats 2]
        [--model DIR --calibration DIR --evaluation DIR [--beyond]] [--methods sparsegpt] [--small] [--output DIR]

PATH is the interpreter of an environment that has llm-compressor (`pip install -e '.[peers]'`, preferably in a separate
environment); without it Secateur runs alone, and there are no ratios.
Without `--model`, a random float32 Llama is pruned (hidden 512, 8 layers, intermediate 1408, vocabulary 8192) on 32
sequences of 256 tokens: use these figures for time and memory. With `--model`, a trained one: then the perplexity
figures are meaningful. With `--beyond`, also SparseGPT's mask with what this service has and the peer has not:
conjugate gradients, the dense model's output as the target, trained blocks. The sides take turns, each in fresh
processes; loading and storing the model do not count. Prints ratios, and writes compare_llmcompressor[-MODEL].json to
the output folder, benchmarks/results by default.

Reports of two kinds are added to ours. On half as many tokens as are calibrated on, or `--tokens`: so many does a job
by default evaluate that calibrates on two languages with long documents. And on an eighth, as with short documents.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer

sys.path.insert(0, str(Path(__file__).parent / "compare"))
from models import random_tokens, write_random_llama
from processes import run_side
from quality import Judge
from small import LENGTH as SMALL_LENGTH
from small import add_options, add_separator

from secateur_service.calibration.corpora import FolderCorpus
from secateur_service.calibration.sampling import draw_samples
from secateur_service.models.checkpoint import Checkpoint
from secateur_service.models.opening import open_checkpoint

COMPARE = Path(__file__).parent / "compare"
BEYOND: dict[str, dict[str, Any]] = {
    "cg": {"update": "cg"},
    "cg, asymmetric": {"update": "cg", "asymmetric": True},
    "cg, trained": {"update": "cg", "epochs": 4},
}
UPDATES = {"wanda": "none", "sparsegpt": "obs"}
"""As in the papers, which is what the peer has; here `sparsegpt` brings conjugate gradients."""
REPORTS = ("with_report", "with_short_report")
SHORT_REPORT = 8  # the part of the calibration sequences that is evaluated
CASES = [("wanda", "0.5"), ("wanda", "2:4"), ("sparsegpt", "0.5"), ("sparsegpt", "2:4")]


def draw(options: argparse.Namespace) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Calibration and evaluation tokens N×S, named `purpose/language`, and which of them stand for text."""
    if options.model is None:
        tokens = {
            "calibration/random": random_tokens(options.sequences, options.length, 1),
            "evaluation/random": random_tokens(options.sequences // 2, options.length, 2),
        }
        return tokens, {name: torch.ones_like(ids, dtype=torch.bool) for name, ids in tokens.items()}
    languages = sorted(path.stem for path in options.calibration.glob("*.txt"))
    drawn = draw_samples(
        AutoTokenizer.from_pretrained(options.model),
        calibration=FolderCorpus(options.calibration),
        evaluation=FolderCorpus(options.evaluation),
        languages=languages,
        evaluation_languages=languages,
        sequences=max(1, options.sequences // len(languages)),
        evaluation_tokens=options.tokens or 8 * options.length,
        sequence_length=options.length,
        seed=0,
        separator=options.separator,
        check=lambda: None,
    )
    named = {
        f"{purpose}/{name}": sample
        for purpose, samples in zip(("calibration", "evaluation"), drawn, strict=True)
        for name, sample in samples.items()
    }
    return {name: sample.tokens for name, sample in named.items()}, {
        name: sample.is_text for name, sample in named.items()
    }


class Bench:
    """Runs both sides on one model."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.model = options.model
        if self.model is None:
            self.model = folder / "model"
            write_random_llama(self.model, **options.shape)
        tokens, is_text = draw(options)
        save_file(tokens, folder / "tokens.safetensors")
        calibration = {name: ids for name, ids in tokens.items() if name.startswith("calibration/")}
        save_file(calibration, folder / "calibration.safetensors")
        self.tokens = sum(ids.numel() for ids in calibration.values())
        evaluation = {name: (ids, is_text[name]) for name, ids in tokens.items() if name.startswith("evaluation/")}
        self.judge = Judge(self.model, evaluation)

    def ours(self, method: str, target: str, *, order: str = "true_sequential", **job: Any) -> dict[str, float]:
        """Run Secateur, with the peer's update unless another is given; the pruned blocks are in `ours`."""
        output = self.folder / "ours"
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir()
        tokens = str(self.folder / "tokens.safetensors")
        job = {"report": False, "order": order, "update": UPDATES[method], "tokens": tokens, **job}
        job |= {"model": str(self.model), "method": method, "target": target, "output": str(output)}
        return run_side(None if self.options.small else sys.executable, COMPARE / "secateur_side.py", job)

    def peer(self, method: str, target: str) -> dict[str, float]:
        """Run llm-compressor with its defaults; the pruned weights are in `peer.safetensors`."""
        job = {"tokens": str(self.folder / "calibration.safetensors"), "output": str(self.folder / "peer.safetensors")}
        job |= {"model": str(self.model), "method": method, "target": target, "batch": 1, "propagate": True}
        return run_side(self.options.peer_python, COMPARE / "llmcompressor_side.py", job)

    def case(self, method: str, target: str) -> dict[str, Any]:
        """One row of the table: each side's minimum processor time, its peak memory, its perplexity."""
        runs: dict[str, list[dict[str, float]]] = {"secateur": []}
        if not self.options.without_report:
            runs |= {"with_report": [], "with_short_report": []}
        outputs = {"secateur": self.folder / "ours"}
        if self.options.peer_python:
            runs["llmcompressor"], outputs["llmcompressor"] = [], self.folder / "peer.safetensors"
        for _ in range(self.options.repeats):
            if self.options.peer_python:
                runs["llmcompressor"].append(self.peer(method, target))
            if "with_report" in runs:
                runs["with_report"].append(self.ours(method, target, report=True))
                few = max(1, self.options.sequences // SHORT_REPORT)
                runs["with_short_report"].append(self.ours(method, target, report=True, evaluated=few))
            runs["secateur"].append(self.ours(method, target))
        cpu = {side: min(run["cpu_seconds"] for run in found) for side, found in runs.items()}
        memory = {side: min(run["anonymous_bytes"] for run in found) for side, found in runs.items()}
        growth = {side: self.judge.judge(path).growth(self.judge.dense) for side, path in outputs.items()}
        row = {"perplexity_growth": growth, "cpu_seconds": cpu, "anonymous_bytes": memory}
        if self.options.peer_python:
            for kind in REPORTS:
                if kind in cpu:
                    row[f"cpu_ratio_{kind}"] = cpu["llmcompressor"] / cpu[kind]
            row |= {
                "cpu_ratio": cpu["llmcompressor"] / cpu["secateur"],
                "memory_ratio": memory["llmcompressor"] / memory["secateur"],
            }
        return row

    def beyond(self, target: str) -> Iterator[tuple[str, dict[str, float]]]:
        """Growth of perplexity and processor time of each way that only this service has."""
        for name, job in BEYOND.items():
            cpu = self.ours("sparsegpt", target, **job)["cpu_seconds"]
            growth = self.judge.judge(self.folder / "ours").growth(self.judge.dense)
            print(f"sparsegpt  {target:<8}{cpu:8.2f} s   {growth:.4f} secateur, {name}", flush=True)
            yield name, {"perplexity_growth": growth, "cpu_seconds": cpu}

    def forwards(self) -> dict[str, float]:
        """Operations of linear layers' products in block order: counted, and by formula."""
        counted = self.ours("wanda", "0.5", order="block", count=True)
        products = sum(count for name, count in counted.items() if name in ("aten.mm", "aten.addmm"))
        return {"counted": products, "formula": linear_products(open_checkpoint(self.model), self.tokens)}


def _figures(row: dict[str, Any]) -> str:
    """Ratios if both sides ran, else our figures: processor seconds, the same with either report, MiB."""
    if "cpu_ratio" in row:
        reports = "".join(f"{row.get(f'cpu_ratio_{kind}', math.nan):13.2f}" for kind in REPORTS)
        return f"{row['cpu_ratio']:10.2f}{reports}{row['memory_ratio']:14.2f}"
    cpu, memory = row["cpu_seconds"], row["anonymous_bytes"]
    reports = "".join(f"{cpu.get(kind, math.nan):11.2f} s" for kind in REPORTS)
    return f"{cpu['secateur']:8.2f} s{reports}{memory['secateur'] / 2**20:10.0f} MiB"


def linear_products(checkpoint: Checkpoint, tokens: int) -> float:
    """Two passes per block, the first without its last product; nothing propagates beyond the last block."""
    total = 0.0
    for index in range(checkpoint.num_blocks):
        groups = checkpoint.inputs(index)
        shapes = [[checkpoint.linear_weight(index, name).shape for name in group] for group in groups]
        sizes = [sum(rows * columns for rows, columns in group) for group in shapes]
        passes = 1 if index + 1 == checkpoint.num_blocks else 2
        total += 2.0 * tokens * (passes * sum(sizes) - sizes[-1])
    return total


def main() -> None:
    """Run all cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="interpreter that has llm-compressor; without it, ours alone")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--model", type=Path, help="a trained model, with --calibration and --evaluation")
    parser.add_argument("--calibration", type=Path, help="folder with one text file per language")
    parser.add_argument("--evaluation", type=Path, help="folder with the same files, other text")
    parser.add_argument("--methods", nargs="+", choices=("wanda", "sparsegpt"), default=["wanda", "sparsegpt"])
    parser.add_argument("--beyond", action="store_true", help="also what only this service has")
    parser.add_argument("--sequences", type=int, default=32, help="calibration sequences; default %(default)s")
    parser.add_argument("--tokens", type=int, help="evaluation tokens per language; default 8 sequences")
    parser.add_argument("--without-report", action="store_true", help="leave out the runs with the report")
    parser.add_argument("--length", type=int, default=256, help="tokens per sequence; default %(default)s")
    add_separator(parser)
    add_options(parser)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    options.shape, cases = {"layers": 8}, [case for case in CASES if case[0] in options.methods]
    if options.small:
        options.sequences, options.length, options.repeats, cases = 2, SMALL_LENGTH, 1, CASES[:1]
        options.shape = {"layers": 1, "hidden": 64, "intermediate": 96}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        print("theirs / ours" if options.peer_python else "ours: processor seconds, memory above the imports")
        print(
            f"{'method':<11}{'target':<8}{'CPU':>10}{'with report':>13}{'short report':>13}{'memory':>14}"
            "   perplexity growth"
        )
        path = options.output / f"compare_llmcompressor{'' if options.model is None else f'-{options.model.name}'}.json"
        versions = {name: metadata.version(name) for name in ("torch", "transformers")}
        result: dict[str, Any] = {"cases": {}, "tokens": bench.tokens, "versions": versions}
        for method, target in cases:
            result["cases"][f"{method} {target}"] = row = bench.case(method, target)
            growth = ", ".join(f"{value:.4f} {side}" for side, value in row["perplexity_growth"].items())
            print(f"{method:<11}{target:<8}{_figures(row)}   {growth}", flush=True)
            path.write_text(json.dumps(result, indent=1) + "\n")
            if options.beyond and method == "sparsegpt":
                for name, found in bench.beyond(target):
                    result.setdefault("beyond", {}).setdefault(target, {})[name] = found
                    path.write_text(json.dumps(result, indent=1) + "\n")
        result["block_order_products"] = forwards = bench.forwards()
        path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"block order: {forwards['counted']:.4g} products of linear layers, {forwards['formula']:.4g} by formula")
    print(f"written: {path}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
