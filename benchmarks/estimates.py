"""Compares a dry run's cost estimate for a job with the actual cost.

    python benchmarks/estimates.py [--layers 4] [--small] [--output DIR]

A random float32 Llama (hidden 512, intermediate 1408, vocabulary 8192) is pruned on 2 languages with 16 sequences of
256 tokens each, in one thread, with the report. Operations are counted by torch; memory is the process's peak resident
set, including imports. Prints both next to their estimates, and writes benchmarks/results/estimates.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent / "compare"))
from models import random_tokens, write_random_llama
from processes import run_side
from small import add_options

from secateur_service.models.opening import open_checkpoint
from secateur_service.sizing.estimate import estimate_cost
from secateur_service.spec import parse_spec

SIDE = Path(__file__).parent / "compare" / "secateur_side.py"
LANGUAGES, SEQUENCES, LENGTH = ("de", "uk"), 16, 256
JOBS: dict[str, dict[str, Any]] = {
    "magnitude": {"method": "magnitude"},
    "wanda": {"method": "wanda"},
    "wanda, order block": {"method": "wanda", "order": "block"},
    "ria": {"method": "ria"},
    "wanda + cg": {"method": "wanda", "update": "cg"},
    "sparsegpt + obs": {"method": "sparsegpt", "update": "obs"},
    "sparsegpt + obs, order block": {"method": "sparsegpt", "update": "obs", "order": "block"},
    "sparsegpt + obs, minimax": {"method": "sparsegpt", "update": "obs", "minimax": True},
    "sparsegpt + cg, asymmetric": {"method": "sparsegpt", "update": "cg", "asymmetric": True},
    "the same, order block": {"method": "sparsegpt", "update": "cg", "asymmetric": True, "order": "block"},
    "sparsegpt + cg, trained": {"method": "sparsegpt", "update": "cg", "epochs": 4},
    "alps": {"method": "alps"},
}


def estimated(model: Path, *, minimax: bool = False, epochs: int = 0, **pruning: Any) -> dict[str, float]:
    """The estimate of a dry run."""
    spec = parse_spec(
        {
            "model": {"uri": "file:///model"},
            "calibration": {
                "corpus": "file:///corpus",
                "languages": [{"language": name} for name in LANGUAGES],
                "policy": "minimax" if minimax else "weights",
                "samples": SEQUENCES * len(LANGUAGES),
                "sequence_length": LENGTH,
            },
            "pruning": {"sparsity": 0.5, **pruning},
            "reconstruction": {"epochs": epochs} if epochs else None,
            "evaluation": {"languages": list(LANGUAGES), "tokens_per_language": SEQUENCES * LENGTH, "continuations": 0},
        }
    )
    estimate = estimate_cost(open_checkpoint(model), spec, on_device=False)
    return {"flops": estimate.flops, "bytes": estimate.peak_host_bytes}


def measured(model: Path, tokens: Path, output: Path, python: str | None, job: dict[str, Any]) -> dict[str, float]:
    """The actual cost: counted in one process, watched in another, because counting takes memory too."""
    found = {}
    for counting in (True, False):
        folder = output / ("counted" if counting else "watched")
        folder.mkdir(parents=True)
        common = {"model": str(model), "tokens": str(tokens), "output": str(folder), "target": "0.5", "report": True}
        found[counting] = run_side(python, SIDE, {"order": "true_sequential", **common, "count": counting, **job})
    counted = sum(count for name, count in found[True].items() if name.startswith("aten."))
    return {"flops": counted, "bytes": found[False]["highest_resident_bytes"]}


def main() -> None:
    """Run every job."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    add_options(parser)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    layers, jobs, size, python = options.layers, JOBS, {}, sys.executable
    if options.small:
        layers, size, python = 1, {"hidden": 64, "intermediate": 96}, None
        jobs = {"sparsegpt + obs, minimax": JOBS["sparsegpt + obs, minimax"]}
    results = {}
    print(f"{'':28}{'operations':>12}{'estimated':>12}{'ratio':>8}{'memory':>12}{'estimated':>12}{'ratio':>8}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_random_llama(folder / "model", layers=layers, **size)
        tokens = {
            f"{purpose}/{language}": random_tokens(SEQUENCES, LENGTH, seed)
            for seed, purpose in enumerate(("calibration", "evaluation"))
            for language in LANGUAGES
        }
        save_file(tokens, folder / "tokens.safetensors")
        for title, job in jobs.items():
            found = measured(folder / "model", folder / "tokens.safetensors", folder / title, python, job)
            expected = estimated(folder / "model", **job)
            results[title] = {"measured": found, "estimated": expected}
            print(
                f"{title:28}{found['flops']:12.3g}{expected['flops']:12.3g}{expected['flops'] / found['flops']:8.2f}"
                f"{found['bytes'] / 2**20:8.0f} MiB{expected['bytes'] / 2**20:8.0f} MiB"
                f"{expected['bytes'] / found['bytes']:8.2f}",
                flush=True,
            )
    versions = {name: metadata.version(name) for name in ("torch", "transformers")}
    content = {"layers": layers, "jobs": results, "versions": versions}
    path = options.output / "estimates.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
