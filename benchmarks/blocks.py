"""What the host does for every block: one step after the other, and beside what the device computes.

    python benchmarks/blocks.py [--blocks 8] [--rounds 3] [--folder DIR] [--checkout DIR] [--small] [--output DIR]

A block of Llama-3-8B's shape (436 MB of bfloat16) is read, made a module's weights and written, without any computing
in between; the CPU stands for the device, and computes in the files' type as one does. Three ways, each in a process of
its own, in turn:

- in series, as plainly as can be: read a tensor, hash it, check that it is finite, copy it into the module; then check,
  hash and write every tensor of the module, and wait for the disk;
- in the pass: its reader, its streamed model and its writer;
- in the pass of another checkout, where one is given.

Prints seconds per block: in all, which is what the throughput comes to; processor seconds of the thread that would
compute, and of all threads; and for how long a device that computes for `COMPUTE_SECONDS` a block stands still between
two blocks. The best of all rounds counts. Writes blocks.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path

import torch
from small import add_options
from transformers import LlamaConfig

from secateur_service.models.opening import open_checkpoint
from secateur_service.models.safetensors import TensorInfo, read_header, write_shard
from secateur_service.models.streaming import StreamedModel
from secateur_service.models.tensors import DTYPES, memory_of, output_tensor
from secateur_service.pipeline.ledger import FileLedger
from secateur_service.pipeline.observer import RecordingObserver
from secateur_service.pipeline.read_ahead import BlockReader
from secateur_service.pipeline.shards import Shards
from secateur_service.pipeline.stopwatch import Stopwatch
from secateur_service.pipeline.write_behind import BlockWriter

COMPUTE_SECONDS = 1.5
"""More than two cores need for the host's part of a block."""
_PIECE_BYTES = 16 << 20
_VOCABULARY = 256
_COLUMNS = {
    "seconds": "s a block",
    "computing_thread_cpu_seconds": "CPU s, own thread",
    "cpu_seconds": "CPU s, all",
    "idle_device_seconds": "s, device idle",
}


def write_model(folder: Path, blocks: int, *, small: bool) -> int:
    """Write a Llama, a file per block, all with the same random weights; returns the bytes of a block."""
    config = LlamaConfig(
        hidden_size=64 if small else 4096,
        intermediate_size=96 if small else 14336,
        num_hidden_layers=blocks,
        num_attention_heads=4 if small else 32,
        num_key_value_heads=1 if small else 8,
        vocab_size=_VOCABULARY,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    config.save_pretrained(folder)
    width, inner, keys = config.hidden_size, config.intermediate_size, config.head_dim * config.num_key_value_heads
    shapes = {
        **{f"self_attn.{name}_proj": (rows, width) for name, rows in (("q", width), ("k", keys), ("v", keys))},
        "self_attn.o_proj": (width, width),
        **{f"mlp.{name}_proj": (inner, width) for name in ("gate", "up")},
        "mlp.down_proj": (width, inner),
    }
    generator = torch.Generator().manual_seed(0)
    block = {name: (torch.randn(shape, generator=generator) * 0.02).bfloat16() for name, shape in shapes.items()}
    block |= {name: torch.ones(width).bfloat16() for name in ("input_layernorm", "post_attention_layernorm")}
    outer = {"embed_tokens": (_VOCABULARY, width), "norm": (width,), "lm_head": (_VOCABULARY, width)}
    files = [
        {f"model.layers.{index}.{name}.weight": tensor for name, tensor in block.items()} for index in range(blocks)
    ]
    files.append(
        {
            f"{name}.weight" if name == "lm_head" else f"model.{name}.weight": torch.ones(shape).bfloat16()
            for name, shape in outer.items()
        }
    )
    weight_map = {}
    for number, tensors in enumerate(files):
        shard = write_shard(folder, f"{number:05d}", [output_tensor(*item) for item in tensors.items()])
        weight_map |= dict.fromkeys(tensors, shard.name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return sum(tensor.nbytes for tensor in block.values())


class Device:
    """Computes for a while, as far as the host can tell; measures seconds per block."""

    def __init__(self, compute_seconds: float) -> None:
        self._compute_seconds = compute_seconds
        self._begun: list[float] = []
        self._ended: list[float] = []
        self.figures: dict[str, float] = {}

    def compute(self) -> None:
        """Compute one block."""
        self._begun.append(time.perf_counter())
        if self._compute_seconds:
            time.sleep(self._compute_seconds)
        self._ended.append(time.perf_counter())

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Measure all that is done in the context."""
        clocks = {
            "seconds": time.perf_counter,
            "computing_thread_cpu_seconds": time.thread_time,
            "cpu_seconds": time.process_time,
        }
        began = {name: clock() for name, clock in clocks.items()}
        yield
        self.figures = {name: (clock() - began[name]) / len(self._begun) for name, clock in clocks.items()}
        idle = [after - before for before, after in zip(self._ended, self._begun[1:], strict=False)]
        self.figures["idle_device_seconds"] = sum(idle) / max(1, len(idle))


def in_series(model: Path, output: Path, device: Device) -> None:
    """The host's work for every block of a model, one step after the other."""
    headers = [read_header(path) for path in sorted(model.glob("*.safetensors"))[:-1]]
    with device.watch():
        for index, header in enumerate(headers):
            weights = {name: _read_in_series(info) for name, info in header.items()}
            device.compute()
            digest = hashlib.sha256()
            with (output / f"{index}.partial").open("wb") as file:
                for tensor in weights.values():
                    assert tensor.isfinite().all()
                    digest.update(memory_of(tensor))
                    file.write(memory_of(tensor))
                file.flush()
                os.fsync(file.fileno())
            Path(file.name).rename(output / digest.hexdigest())


def _read_in_series(info: TensorInfo) -> torch.Tensor:
    raw, digest = torch.empty(info.size_bytes, dtype=torch.uint8), hashlib.sha256()
    with info.path.open("rb", buffering=0) as file:
        file.seek(info.offset)
        for piece in raw.split(_PIECE_BYTES):
            file.readinto(memory_of(piece))
            digest.update(memory_of(piece))
    tensor = raw.view(DTYPES[info.dtype]).view(info.shape)
    assert tensor.isfinite().all()
    return torch.empty_like(tensor).copy_(tensor)


@torch.no_grad()
def in_pass(folder: Path, output: Path, device: Device) -> None:
    """The same by the parts of the streaming pass."""
    model = StreamedModel(open_checkpoint(folder), torch.device("cpu"), torch.bfloat16)
    stopwatch, observer = Stopwatch(), RecordingObserver()
    reader = BlockReader(model, stopwatch, observer.check)
    writer = BlockWriter(Shards(output), "benchmark", FileLedger(output / "ledger.json"), observer, stopwatch)
    with device.watch(), reader, writer:
        for index in range(model.num_blocks):
            with model.block(index, reader.take(index)) as block:
                device.compute()
                writer.submit(index, model.output_tensors(block, index), (), {}, 0.0, {}, None)


WAYS = {"series": in_series, "pass": in_pass}


def run_way(way: str, model: Path, folder: Path, compute_seconds: float, checkout: Path | None) -> dict[str, float]:
    """What one way takes, in a process of its own."""
    environment = dict(os.environ)
    if checkout is not None:
        environment["PYTHONPATH"] = f"{checkout / 'service'}{os.pathsep}{checkout / 'client'}"
    asked = ["--way", way, "--model", model, "--folder", folder, "--compute-seconds", compute_seconds]
    command = [sys.executable, __file__, *map(str, asked)]
    finished = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return found


def run_here(way: str, model: Path, folder: Path, compute_seconds: float) -> dict[str, float]:
    """What one way takes, in this process."""
    device = Device(compute_seconds)
    with tempfile.TemporaryDirectory(dir=folder) as output:
        WAYS[way](model, Path(output), device)
    return device.figures


def compare(options: argparse.Namespace, folder: Path) -> None:
    """Measure all ways in turn; print the table, and keep it, after every round."""
    compute_seconds = 0.01 if options.small else COMPUTE_SECONDS
    block_bytes = write_model(folder / "model", options.blocks, small=options.small)
    ways: dict[str, tuple[str, Path | None]] = {"in series": ("series", None), "in the pass": ("pass", None)}
    if options.checkout is not None:
        ways[f"in the pass of {options.checkout.name}"] = ("pass", options.checkout)
    table: dict[str, dict[str, float]] = {}
    print(f"a block of {block_bytes / 1e6:.0f} MB, {options.blocks} of them, {os.cpu_count()} cores")
    print(f"{'':30}" + "".join(f"{title:>20}" for title in _COLUMNS.values()) + f"{'throughput':>12}")
    for _ in range(options.rounds):
        for name, (way, checkout) in ways.items():
            run = run_here if options.small else partial(run_way, checkout=checkout)
            found, beside = (run(way, folder / "model", folder, seconds) for seconds in (0.0, compute_seconds))
            found["idle_device_seconds"] = beside["idle_device_seconds"]
            best = table.setdefault(name, found)
            table[name] = row = {figure: min(value, best[figure]) for figure, value in found.items()}
            times = table["in series"]["seconds"] / row["seconds"]
            columns = "".join(f"{row[figure]:>20.3f}" for figure in _COLUMNS)
            print(f"{name:30}{columns}{times:>11.1f}x", flush=True)
        result = {
            "block_bytes": block_bytes,
            "blocks": options.blocks,
            "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 1),
            "compute_seconds": compute_seconds,
            "seconds_per_block": {name: {key: round(row[key], 4) for key in _COLUMNS} for name, row in table.items()},
            "versions": {name: metadata.version(name) for name in ("torch", "transformers")},
        }
        (options.output / "blocks.json").write_text(json.dumps(result, indent=1) + "\n")


def main() -> None:
    """Compare the ways, or run one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where 8 GB are free; default a temporary folder")
    parser.add_argument("--checkout", type=Path, help="of another release, to be measured too")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--compute-seconds", type=float, help=argparse.SUPPRESS)
    add_options(parser)
    options = parser.parse_args()
    if options.way is not None:
        print(json.dumps(run_here(options.way, options.model, options.folder, options.compute_seconds)))
        return
    if options.small:
        options.blocks, options.rounds = 2, 1
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        compare(options, Path(name))
    print(f"written: {options.output / 'blocks.json'}")


if __name__ == "__main__":
    main()
