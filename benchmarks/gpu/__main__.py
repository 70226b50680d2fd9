"""Prunes generated blocks of a real shape and compares the time per block with its floor.

    python -m benchmarks.gpu --shape llama-3-8b|70b|405b|tiny --method wanda|sparsegpt|... [--sequences 128]
        [--length 2048] [--order true_sequential] [--blocks 5] [--device cuda]

Runs the engine's own pass. Prints, and writes to benchmarks/results/gpu-SHAPE-METHOD.json: seconds per block (the
median of the blocks between the first and the last, which do more or less than the others) against the floor, peak
device memory, and whether a block's output depends on how many sequences share a batch.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.floor import Rates, block_floor
from benchmarks.gpu.generated import SHAPES, GeneratedModel, Shape, generated_model
from secateur_service.calibration.sampling import TextSample
from secateur_service.pipeline.ledger import FileLedger
from secateur_service.pipeline.observer import Progress, RecordingObserver
from secateur_service.pipeline.stopwatch import Stopwatch
from secateur_service.pipeline.streaming_pass import run_pass
from secateur_service.pipeline.task import Task
from secateur_service.pruning.methods import METHODS, Moments, Recipe
from secateur_service.pruning.patterns import NofM, Target, Unstructured
from secateur_service.pruning.statistics import InputStatistics
from secateur_service.spec import ORDERS

RESULTS = Path(__file__).parent.parent / "results"
# Of an H200 and of one core of a server processor.
TFLOPS = {"cuda": (790.0, 60.0), "cpu": (0.075, 0.075)}
BATCH_SIZES = (1, 2, 8)


class BlockClock(RecordingObserver):
    """Notes when each block is done."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[float] = []

    def progress(self, progress: Progress) -> None:
        """Note the time, once the device has finished too."""
        super().progress(progress)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    def seconds_per_block(self) -> list[float]:
        """Of the blocks between the first and the last."""
        return [later - earlier for earlier, later in zip(self.ends[:-2], self.ends[1:-1], strict=True)]


def prune(model: GeneratedModel, recipe: Recipe, target: Target, order: str, tokens: Tensor) -> BlockClock:
    """Prune all blocks of a model on one language; no evaluation, no analyses."""
    sample = TextSample("generated", tokens, torch.ones_like(tokens), 1, frozenset())
    clock = BlockClock()
    targets = {info.name: target for info in model.checkpoint.linear_weights()}
    with tempfile.TemporaryDirectory() as folder:
        task = Task(
            recipe, targets, order, {"generated": 1.0}, {"generated": sample}, {}, Path(folder), layer_snr=False
        )
        run_pass(model, task, FileLedger(Path(folder) / "ledger.json"), clock, Stopwatch())
    return clock


@torch.no_grad()
def dependence_on_batch_size(shape: Shape, tokens: Tensor, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Whether a block's output, and the sums over one and the same output, depend on the size of the batch."""
    model = generated_model(shape, 1, device, dtype)
    tokens = tokens[: max(BATCH_SIZES)]
    outputs = []
    for size in BATCH_SIZES:
        states = model.embed(list(torch.split(tokens, size)))
        with model.block(0) as block:
            outputs.append(torch.cat([model.run_block(block, 0, batch) for batch in states]))
    sums = []
    for size in BATCH_SIZES:
        of_input = InputStatistics(shape.hidden, {"": 1.0}, {"": tokens.numel()}, device, moments=Moments.BY_LANGUAGE)
        for batch in torch.split(outputs[0], size):
            of_input.update(batch, "")
        sums.append(of_input.language_gram(""))
    return {
        "batch_sizes": BATCH_SIZES,
        "outputs_equal": all(torch.equal(outputs[0], other) for other in outputs[1:]),
        "largest_difference": max(float((outputs[0] - other).abs().max()) for other in outputs[1:]),
        "largest_output": float(outputs[0].abs().max()),
        "sums_equal": all(torch.equal(sums[0], other) for other in sums[1:]),
    }


def parse_target(text: str, group: str) -> Target:
    """`0.5` or `2:4`."""
    if ":" in text:
        kept, size = text.split(":")
        return NofM(int(kept), int(size))
    return Unstructured(float(text), group)


def versions() -> dict[str, str]:
    """Of what the figures depend on."""
    installed = {name: metadata.version(name) for name in ("torch", "transformers")}
    try:
        installed["triton"] = metadata.version("triton")
    except metadata.PackageNotFoundError:
        installed["triton"] = "none"
    return {"python": platform.python_version(), "cuda": str(torch.version.cuda), **installed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="llama-3-8b")
    parser.add_argument("--method", choices=[name for name in METHODS if name != "magnitude"], default="wanda")
    parser.add_argument("--update", help="instead of the method's own")
    parser.add_argument("--target", default="0.5", help="a share, or N:M")
    parser.add_argument("--order", choices=ORDERS, default="true_sequential")
    parser.add_argument("--sequences", type=int, default=128)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--blocks", type=int, default=5, help="blocks to run, at least 3; the model may have more")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tflops", type=float, nargs=2, help="of products in 16 bits, and of float32")
    arguments = parser.parse_args()

    shape, device = SHAPES[arguments.shape], torch.device(arguments.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    recipe = Recipe.of(arguments.method, arguments.update)
    target = parse_target(arguments.target, METHODS[arguments.method].group)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(shape.vocabulary, (arguments.sequences, arguments.length), generator=generator)

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    clock = prune(
        generated_model(shape, max(3, arguments.blocks), device, dtype), recipe, target, arguments.order, tokens
    )
    seconds = statistics.median(clock.seconds_per_block())
    rates = Rates(*(rate * 1e12 for rate in arguments.tflops or TFLOPS[device.type]))
    floor = block_floor(shape, recipe, arguments.order, arguments.sequences, arguments.length)
    least = floor.seconds(rates)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    result = {
        "arguments": {**vars(arguments), "dtype": str(dtype)},
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "seconds_per_block": seconds,
        "seconds_of_blocks": clock.seconds_per_block(),
        "floor_seconds_per_block": least,
        "times_floor": seconds / least,
        "model_seconds": seconds * shape.blocks,
        "product_flops_per_block": floor.product_flops,
        "float32_flops_per_block": floor.float32_flops,
        "peak_device_bytes": peak or None,
        "batch_size": dependence_on_batch_size(shape, tokens, device, dtype),
    }
    path = RESULTS / f"gpu-{arguments.shape}-{arguments.method}.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"{arguments.shape}, {arguments.method}, {arguments.sequences}×{arguments.length} tokens, {result['device']}")
    print(f"{seconds:.3f} s per block, {seconds / least:.2f} times its floor of {least:.3f} s")
    print(f"{seconds * shape.blocks:.1f} s for all {shape.blocks} blocks; {peak / 1e9:.1f} GB on the device at most")
    print(f"by batch size: {result['batch_size']}")
    print(path)


if __name__ == "__main__":
    main()
