"""Peak memory by depth: a model streamed from disk to disk against one that is loaded whole.

    python benchmarks/memory.py --peer-python PATH [--layers 8 16 32 64] [--methods wanda sparsegpt]

PATH is the interpreter of an environment that has llm-compressor. For each depth a random float32 Llama is written
(hidden 512, intermediate 1408, vocabulary 8192) and pruned to 50 % on 32 sequences of 256 tokens by both sides, each in
a fresh process with one thread. Counted is the process's own memory (RssAnon) above what it holds when everything is
imported, until the last block is pruned; Secateur has written its blocks by then. Prints and draws the peaks, and
writes benchmarks/results/memory.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import matplotlib as mpl
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent / "compare"))
from models import random_tokens, write_random_llama
from processes import run_side

mpl.use("Agg")
import matplotlib.pyplot as plt

COMPARE = Path(__file__).parent / "compare"
RESULTS = Path(__file__).parent / "results"
SEQUENCES, LENGTH, SPARSITY = 32, 256, "0.5"
SIDES = ("llmcompressor", "secateur", "secateur_with_report")
_TITLES = {
    "llmcompressor": "llm-compressor",
    "secateur": "Secateur",
    "secateur_with_report": "Secateur, with report",
}

Peaks = dict[str, dict[int, dict[str, float]]]


def peaks(layers: int, method: str, peer_python: str, folder: Path) -> dict[str, float]:
    """The peak of every side on a model of so many layers, in MiB above the baseline."""
    model, tokens, calibration = folder / "model", folder / "tokens.safetensors", folder / "calibration.safetensors"
    if not model.exists():
        write_random_llama(model, layers=layers)
        drawn = {"calibration/random": random_tokens(SEQUENCES, LENGTH, 1)}
        save_file(drawn, calibration)
        save_file(drawn | {"evaluation/random": random_tokens(SEQUENCES // 2, LENGTH, 2)}, tokens)
    common = {"model": str(model), "method": method, "target": SPARSITY}
    peer = {"tokens": str(calibration), "output": str(folder / "peer.safetensors"), "batch": 1, "propagate": True}
    found = {"llmcompressor": run_side(peer_python, COMPARE / "llmcompressor_side.py", common | peer)}
    for side in SIDES[1:]:
        output = folder / f"{side}-{method}"
        output.mkdir()
        job = {"tokens": str(tokens), "output": str(output), "order": "true_sequential", "report": side != "secateur"}
        found[side] = run_side(sys.executable, COMPARE / "secateur_side.py", common | job)
    return {side: round(figures["anonymous_bytes"] / 2**20, 1) for side, figures in found.items()}


def draw(results: Peaks, path: Path) -> None:
    """One panel per method, one line per side."""
    figure, axes = plt.subplots(1, len(results), figsize=(4.5 * len(results), 3.6), sharey=True, squeeze=False)
    for place, (method, rows) in zip(axes.flat, results.items(), strict=True):
        for side in SIDES:
            place.plot(list(rows), [row[side] for row in rows.values()], marker="o", label=_TITLES[side])
        place.set(title=f"{method}, 50 %", xlabel="layers", xticks=list(rows), ylim=(0, None))
        place.grid(alpha=0.3)
    axes[0, 0].set_ylabel("peak memory above imports, MiB")
    axes[0, 0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure every depth and method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has llm-compressor")
    parser.add_argument("--layers", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--methods", nargs="+", default=["wanda", "sparsegpt"])
    options = parser.parse_args()
    results: Peaks = {method: {} for method in options.methods}
    print(f"{'method':10} {'layers':>6}" + "".join(f"{_TITLES[side]:>24}" for side in SIDES) + f"{'ratio':>8}")
    for layers in options.layers:
        with tempfile.TemporaryDirectory() as name:
            for method in options.methods:
                row = peaks(layers, method, options.peer_python, Path(name))
                results[method][layers] = row
                ratio = row["llmcompressor"] / row["secateur"]
                columns = "".join(f"{row[side]:>20.0f} MiB" for side in SIDES)
                print(f"{method:10} {layers:>6}{columns}{ratio:>8.2f}", flush=True)
    versions = {name: metadata.version(name) for name in ("torch", "transformers")}
    (RESULTS / "memory.json").write_text(json.dumps({"peak_mib": results, "versions": versions}, indent=1) + "\n")
    draw(results, RESULTS / "memory.png")
    print(f"written: {RESULTS / 'memory.json'}, {RESULTS / 'memory.png'}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
