"""Secateur against llm-compressor: the same model, the same tokens, one CPU thread each, in one run.

    python benchmarks/compare_llmcompressor.py --peer-python PATH [--repeats 2]
        [--model DIR --calibration DIR --evaluation DIR]

PATH is the interpreter of an environment that has llm-compressor (`pip install -e '.[peers]'`, best in one of its own).
Without `--model`, a random float32 Llama is pruned (hidden 512, 8 layers, intermediate 1408, vocabulary 8192) on 32
sequences of 256 tokens: the figures of time and memory. With it, a trained one: the figures of perplexity mean
something. Each side runs in fresh processes, in turn; loading and storing the model do not count. Prints ratios, and
writes benchmarks/results/compare_llmcompressor[-MODEL].json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
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

from secateur_service.calibration.corpora import FolderCorpus
from secateur_service.calibration.sampling import draw_samples
from secateur_service.models.checkpoint import Checkpoint, open_checkpoint

COMPARE = Path(__file__).parent / "compare"
RESULTS = Path(__file__).parent / "results"
CASES = [("wanda", "0.5"), ("wanda", "2:4"), ("sparsegpt", "0.5"), ("sparsegpt", "2:4")]
SEQUENCES, LENGTH = 32, 256


def draw(options: argparse.Namespace) -> dict[str, Tensor]:
    """Calibration and evaluation tokens N×S, named `purpose/language`."""
    if options.model is None:
        return {
            "calibration/random": random_tokens(SEQUENCES, LENGTH, 1),
            "evaluation/random": random_tokens(SEQUENCES // 2, LENGTH, 2),
        }
    languages = sorted(path.stem for path in options.calibration.glob("*.txt"))
    drawn = draw_samples(
        AutoTokenizer.from_pretrained(options.model),
        calibration=FolderCorpus(options.calibration),
        evaluation=FolderCorpus(options.evaluation),
        languages=languages,
        evaluation_languages=languages,
        sequences=max(1, SEQUENCES // len(languages)),
        evaluation_tokens=8 * LENGTH,
        sequence_length=LENGTH,
        seed=0,
        check=lambda: None,
    )
    return {
        f"{purpose}/{name}": sample.tokens
        for purpose, samples in zip(("calibration", "evaluation"), drawn, strict=True)
        for name, sample in samples.items()
    }


class Bench:
    """Runs both sides on one model."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.model = options.model
        if self.model is None:
            self.model = folder / "model"
            write_random_llama(self.model, layers=8)
        tokens = draw(options)
        save_file(tokens, folder / "tokens.safetensors")
        calibration = {name: ids for name, ids in tokens.items() if name.startswith("calibration/")}
        save_file(calibration, folder / "calibration.safetensors")
        self.tokens = sum(ids.numel() for ids in calibration.values())
        self.judge = Judge(self.model, {name: ids for name, ids in tokens.items() if name.startswith("evaluation/")})

    def ours(self, method: str, target: str, *, order: str = "true_sequential", **job: Any) -> dict[str, float]:
        """Run Secateur; the pruned blocks lie in `ours`."""
        output = self.folder / "ours"
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir()
        job = {"report": False, "order": order, "tokens": str(self.folder / "tokens.safetensors"), **job}
        job |= {"model": str(self.model), "method": method, "target": target, "output": str(output)}
        return run_side(sys.executable, COMPARE / "secateur_side.py", job)

    def peer(self, method: str, target: str) -> dict[str, float]:
        """Run llm-compressor with its defaults; the pruned weights lie in `peer.safetensors`."""
        job = {"tokens": str(self.folder / "calibration.safetensors"), "output": str(self.folder / "peer.safetensors")}
        job |= {"model": str(self.model), "method": method, "target": target, "batch": 1, "propagate": True}
        return run_side(self.options.peer_python, COMPARE / "llmcompressor_side.py", job)

    def case(self, method: str, target: str) -> dict[str, Any]:
        """One row of the table: the least processor time of either side, their peak memory, their perplexity."""
        runs: dict[str, list[dict[str, float]]] = {"llmcompressor": [], "secateur": [], "with_report": []}
        for _ in range(self.options.repeats):
            runs["llmcompressor"].append(self.peer(method, target))
            runs["with_report"].append(self.ours(method, target, report=True))
            runs["secateur"].append(self.ours(method, target))
        cpu = {side: min(run["cpu_seconds"] for run in found) for side, found in runs.items()}
        memory = {side: min(run["anonymous_bytes"] for run in found) for side, found in runs.items()}
        growth = {
            side: self.judge.judge(path).growth(self.judge.dense)
            for side, path in (
                ("secateur", self.folder / "ours"),
                ("llmcompressor", self.folder / "peer.safetensors"),
            )
        }
        return {
            "cpu_ratio": cpu["llmcompressor"] / cpu["secateur"],
            "cpu_ratio_with_report": cpu["llmcompressor"] / cpu["with_report"],
            "memory_ratio": memory["llmcompressor"] / memory["secateur"],
            "perplexity_growth": growth,
            "cpu_seconds": cpu,
            "anonymous_bytes": memory,
        }

    def forwards(self) -> dict[str, float]:
        """Products of linear layers in block order: counted, and by formula."""
        counted = self.ours("wanda", "0.5", order="block", count=True)
        products = sum(count for name, count in counted.items() if name in ("aten.mm", "aten.addmm"))
        return {"counted": products, "formula": linear_products(open_checkpoint(self.model), self.tokens)}


def linear_products(checkpoint: Checkpoint, tokens: int) -> float:
    """Two passes per block less the last product of the first; nothing is carried beyond the last block."""
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
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has llm-compressor")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--model", type=Path, help="a trained model, with --calibration and --evaluation")
    parser.add_argument("--calibration", type=Path, help="folder with one text file per language")
    parser.add_argument("--evaluation", type=Path, help="folder with the same files, other text")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        print(
            f"{'method':<11}{'target':<8}{'CPU ratio':>10}{'with report':>13}{'memory ratio':>14}   perplexity growth"
        )
        rows = {}
        for method, target in CASES:
            rows[f"{method} {target}"] = row = bench.case(method, target)
            growth = row["perplexity_growth"]
            print(
                f"{method:<11}{target:<8}{row['cpu_ratio']:10.2f}{row['cpu_ratio_with_report']:13.2f}"
                f"{row['memory_ratio']:14.2f}   {growth['secateur']:.4f} ours, {growth['llmcompressor']:.4f} theirs",
                flush=True,
            )
        forwards = bench.forwards()
    print(f"block order: {forwards['counted']:.4g} products of linear layers, {forwards['formula']:.4g} by formula")
    result = {
        "cases": rows,
        "block_order_products": forwards,
        "versions": {name: metadata.version(name) for name in ("torch", "transformers")},
    }
    path = RESULTS / f"compare_llmcompressor{'' if options.model is None else f'-{options.model.name}'}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {path}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
