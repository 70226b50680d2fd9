"""Peak memory by depth: a model streamed from disk to disk, compared with one that is loaded whole.

    python benchmarks/memory.py [--peer-python PATH] [--layers 8 16 32 64] [--methods wanda sparsegpt]
        [--small] [--output DIR]

PATH is the interpreter of an environment that has llm-compressor; without it only Secateur is measured. For each depth
a random float32 Llama is written (hidden 512, intermediate 1408, vocabulary 8192) and pruned to 50 % on 32 sequences of
256 tokens by both sides, each in a fresh process with one thread. Measures the process's own memory (RssAnon) above
what it holds after all imports, until the last block is pruned; Secateur has written its blocks by then. Prints and
draws the peaks, and writes memory.json to the output folder.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import matplotlib as mpl
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent / "compare"))
from models import random_tokens, write_random_llama
from processes import run_side
from small import add_options

mpl.use("Agg")
import matplotlib.pyplot as plt

COMPARE = Path(__file__).parent / "compare"
SEQUENCES, LENGTH, SPARSITY = 32, 256, "0.5"
UPDATES = {"wanda": "none", "sparsegpt": "obs"}
"""As in the papers, which is what the peer has; here `sparsegpt` brings conjugate gradients."""
SIDES = ("llmcompressor", "secateur", "secateur_with_report")
_TITLES = {
    "llmcompressor": "llm-compressor",
    "secateur": "Secateur",
    "secateur_with_report": "Secateur, with report",
}

Peaks = dict[str, dict[int, dict[str, float]]]


def peaks(
    layers: int, method: str, sides: Sequence[str], peer_python: str | None, folder: Path, **size: int
) -> dict[str, float]:
    """The peak of every side in MiB above the baseline."""
    model, tokens, calibration = folder / "model", folder / "tokens.safetensors", folder / "calibration.safetensors"
    if not model.exists():
        write_random_llama(model, layers=layers, **size)
        drawn = {"calibration/random": random_tokens(SEQUENCES, LENGTH, 1)}
        save_file(drawn, calibration)
        save_file(drawn | {"evaluation/random": random_tokens(SEQUENCES // 2, LENGTH, 2)}, tokens)
    common = {"model": str(model), "method": method, "update": UPDATES[method], "target": SPARSITY}
    peer = {"tokens": str(calibration), "output": str(folder / "peer.safetensors"), "batch": 1, "propagate": True}
    found = {}
    for side in sides:
        if side == SIDES[0]:
            found[side] = run_side(peer_python, COMPARE / "llmcompressor_side.py", common | peer)
            continue
        output = folder / f"{side}-{method}"
        output.mkdir()
        job = {"tokens": str(tokens), "output": str(output), "order": "true_sequential", "report": side != "secateur"}
        found[side] = run_side(sys.executable, COMPARE / "secateur_side.py", common | job)
    return {side: round(figures["anonymous_bytes"] / 2**20, 1) for side, figures in found.items()}


def draw(results: Peaks, path: Path) -> None:
    """One panel per method, one line per side."""
    figure, axes = plt.subplots(1, len(results), figsize=(4.5 * len(results), 3.6), sharey=True, squeeze=False)
    for place, (method, rows) in zip(axes.flat, results.items(), strict=True):
        for side in next(iter(rows.values())):
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
    parser.add_argument("--peer-python", help="interpreter that has llm-compressor; without it, ours alone")
    parser.add_argument("--layers", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--methods", nargs="+", choices=UPDATES, default=list(UPDATES))
    add_options(parser)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    size = {"hidden": 64, "intermediate": 96} if options.small else {}
    if options.small:
        options.layers, options.methods = [1], ["wanda"]
    ours = SIDES[1:2] if options.small else SIDES[1:]
    sides = (*SIDES[:1], *ours) if options.peer_python else ours
    results: Peaks = {method: {} for method in options.methods}
    print(f"{'method':10} {'layers':>6}" + "".join(f"{_TITLES[side]:>24}" for side in sides) + f"{'ratio':>8}")
    for layers in options.layers:
        with tempfile.TemporaryDirectory() as name:
            for method in options.methods:
                row = peaks(layers, method, sides, options.peer_python, Path(name), **size)
                results[method][layers] = row
                ratio = f"{row['llmcompressor'] / row['secateur']:>8.2f}" if options.peer_python else ""
                columns = "".join(f"{row[side]:>20.0f} MiB" for side in sides)
                print(f"{method:10} {layers:>6}{columns}{ratio}", flush=True)
    versions = {name: metadata.version(name) for name in ("torch", "transformers")}
    (options.output / "memory.json").write_text(
        json.dumps({"peak_mib": results, "versions": versions}, indent=1) + "\n"
    )
    draw(results, options.output / "memory.png")
    print(f"written: {options.output / 'memory.json'}, {options.output / 'memory.png'}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
