"""Processor time of the numerical kernels for a Llama's layer shapes, compared with that of the products they need.

    python benchmarks/numerics.py [--hidden 512] [--intermediate 1408] [--repeats 5] [--device cpu|cuda]
        [--small] [--output DIR]

For every distinct input of a block: its second moments per tile of tokens, the selection of half the weights within
rows, within the layer and by 2:4, SparseGPT's sweep, conjugate gradients, and ALPS. Prints milliseconds, and the ratio
to the time of the matrix products that the kernel needs. Writes benchmarks/results/numerics.json.
Set OMP_NUM_THREADS=1 to compare with other machines.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from small import add_options
from torch import Tensor

from secateur_service.pruning.alps import alps
from secateur_service.pruning.budget import CG_STEPS, TILE_TOKENS
from secateur_service.pruning.conjugate_gradient import refine
from secateur_service.pruning.methods import Moments
from secateur_service.pruning.patterns import NofM, Target, Unstructured, prune
from secateur_service.pruning.sparsegpt import sparsegpt
from secateur_service.pruning.statistics import InputStatistics

TARGETS: dict[str, Target] = {"rows": Unstructured(0.5), "layer": Unstructured(0.5, "layer"), "2:4": NofM(2, 4)}


def milliseconds(work: Callable[[], Any], repeats: int, device: torch.device) -> float:
    """The shortest of several runs: processor time on a CPU, elsewhere wall time until the device is done."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    shortest = float("inf")
    for _ in range(repeats + 1):
        began = clock()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        shortest = min(shortest, clock() - began)
    return 1e3 * shortest


def measure(rows: list[int], width: int, repeats: int, device: torch.device) -> dict[str, tuple[float, float]]:
    """Milliseconds of every kernel, for layers that share an input, and of the products that it needs."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(width, width, generator=generator) / width**0.5
    inputs = (torch.randn(TILE_TOKENS, width, generator=generator) @ mixing).to(device)
    weights = [torch.randn(height, width, generator=generator).to(device) for height in rows]
    tokens = 4 * TILE_TOKENS

    def moments(needed: Moments) -> InputStatistics:
        statistics = InputStatistics(width, {"": 1.0}, {"": tokens}, device, moments=needed)
        for _ in range(tokens // TILE_TOKENS):
            statistics.update(inputs, "")
        statistics.mean_squares()
        return statistics

    gram = moments(Moments.FULL).gram
    assert gram is not None

    def one_product(left: Tensor, right: Tensor) -> float:
        return milliseconds(lambda: left @ right, repeats, device)

    square = one_product(inputs.T, inputs) * tokens / TILE_TOKENS
    stack = torch.cat(weights)
    layers = one_product(stack, gram)
    figures = {
        "mean squares": (milliseconds(lambda: moments(Moments.DIAGONAL), repeats, device), 0.0),
        "second moments": (milliseconds(lambda: moments(Moments.FULL).gram, repeats, device), square / 2),
    }
    masks = {}
    for name, target in TARGETS.items():
        masks[name] = [prune(weight.abs(), target) for weight in weights]
        figures[f"selection, {name}"] = (
            milliseconds(lambda target=target: [prune(w.abs(), target) for w in weights], repeats, device),  # type: ignore[misc]
            0.0,
        )
        figures[f"sweep, {name}"] = (
            milliseconds(lambda target=target: sparsegpt(weights, gram, target), repeats, device),  # type: ignore[misc]
            layers / 2 + one_product(gram, gram) / 6,
        )
    figures["conjugate gradients"] = (
        milliseconds(
            lambda: [refine(w, mask, gram) for w, mask in zip(weights, masks["rows"], strict=True)], repeats, device
        ),
        (CG_STEPS + 2) * layers,
    )
    figures["alps, layer"] = (milliseconds(lambda: alps(weights, gram, TARGETS["layer"]), 1, device), 0.0)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--intermediate", type=int, default=1408)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    add_options(parser)
    arguments = parser.parse_args()
    if arguments.small:
        arguments.hidden, arguments.intermediate, arguments.repeats = 32, 64, 1
    d, f = arguments.hidden, arguments.intermediate
    shapes = {"q, k, v": ([d] * 3, d), "o": ([d], d), "gate, up": ([f] * 2, d), "down": ([d], f)}
    figures = {}
    for name, (rows, width) in shapes.items():
        print(f"{name}: {sum(rows)}×{width}")
        figures[name] = measure(rows, width, arguments.repeats, torch.device(arguments.device))
        for kernel, (spent, needed) in figures[name].items():
            ratio = f"{spent / needed:6.2f} times its products" if needed else ""
            print(f"  {kernel:22} {spent:9.2f} ms {ratio}")
    result = {
        "arguments": {name: getattr(arguments, name) for name in ("hidden", "intermediate", "repeats", "device")},
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "milliseconds": {name: {kernel: spent for kernel, (spent, _) in row.items()} for name, row in figures.items()},
        "products": {name: {kernel: needed for kernel, (_, needed) in row.items()} for name, row in figures.items()},
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "numerics.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
