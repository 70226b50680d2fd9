"""What a core and a disk do in a second, and what a job on Llama-3-8B takes of that beside its products.

    python benchmarks/host.py [--folder DIR] [--mebibytes 1024] [--repeats 3] [--small] [--output DIR]

Measures hashing, reading, writing and copying of bytes, and what is done with every weight: checks for finite values,
counting and making zeros, each as torch does it and as `pruning.elementwise` does. Seconds of one core are processor
time, but reading from the disk and writing to it are wall time; the shortest of several runs. Then multiplies with how
often a job on Llama-3-8B does each. Prints both tables, and writes benchmarks/results/host.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from small import add_options

from secateur_service.pruning.elementwise import is_finite, nonzeros, zero_where

_PIECE = 16 << 20
_WEIGHTS = {"all": 8_030_261_248, "pruned": 6_979_321_856}
"""Of Llama-3-8B, in bfloat16: all of them, and those of the linear layers of its blocks."""
_DONE: dict[str, tuple[str, float]] = {
    "sha256": ("written blocks, once", 2.0 * _WEIGHTS["all"]),
    "read_cached": ("the model, once", 2.0 * _WEIGHTS["all"]),
    "read_disk": ("the model, once, not cached", 2.0 * _WEIGHTS["all"]),
    "write_fsync": ("the result, once", 2.0 * _WEIGHTS["all"]),
    "copy": ("the model to where it computes, once", 2.0 * _WEIGHTS["all"]),
    "finite_torch": ("read, rounded and written, before", 2.0 * (2 * _WEIGHTS["all"] + _WEIGHTS["pruned"])),
    "finite": ("read, rounded and written, now", 2.0 * (2 * _WEIGHTS["all"] + _WEIGHTS["pruned"])),
    "nonzeros_torch": ("pruned weights, before", 2.0 * _WEIGHTS["pruned"]),
    "nonzeros": ("pruned weights, now", 2.0 * _WEIGHTS["pruned"]),
    "fill_torch": ("pruned weights in float32, before", 4.0 * _WEIGHTS["pruned"]),
    "fill": ("pruned weights in float32, now", 4.0 * _WEIGHTS["pruned"]),
}
"""By measurement: what a job does it to, and to how many bytes."""


def shortest(work: Callable[[], Any], repeats: int, clock: Callable[[], float]) -> float:
    """Seconds of the shortest run, after one that does not count."""
    work()
    found = []
    for _ in range(repeats):
        began = clock()
        work()
        found.append(clock() - began)
    return min(found)


def bytes_moved(folder: Path, size: int, repeats: int) -> Iterator[tuple[str, float]]:
    """Bytes per second of what is done with bytes, by name."""
    piece = torch.randint(0, 256, (min(size, _PIECE),), dtype=torch.uint8).numpy().tobytes()
    pieces = max(1, size // len(piece))
    path = folder / "host-benchmark"

    def write() -> None:
        with path.open("wb") as file:
            for _ in range(pieces):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())

    def read() -> None:
        buffer = bytearray(len(piece))
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass

    def read_from_disk() -> None:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        read()

    total = float(pieces * len(piece))
    try:
        yield "write_fsync", total / shortest(write, repeats, time.perf_counter)
        yield "read_disk", total / shortest(read_from_disk, repeats, time.perf_counter)
        yield "read_cached", total / shortest(read, repeats, time.process_time)
    finally:
        path.unlink(missing_ok=True)
    yield "sha256", len(piece) / shortest(lambda: hashlib.sha256(piece).digest(), repeats, time.process_time)


def weights_gone_through(size: int, repeats: int) -> Iterator[tuple[str, float]]:
    """Bytes per second of what is done with weights, by name: in bfloat16 but where they are filled."""
    wide = torch.randn(size // 4, generator=torch.Generator().manual_seed(0))
    pruned = wide.abs() < 0.67  # half
    zero_where(wide, pruned)
    narrow, target = wide.bfloat16(), torch.empty(wide.shape, dtype=torch.bfloat16)
    ways: dict[str, tuple[torch.Tensor, Callable[[], Any]]] = {
        "copy": (narrow, lambda: target.copy_(narrow)),
        "finite_torch": (narrow, lambda: narrow.isfinite().all()),
        "finite": (narrow, lambda: is_finite(narrow)),
        "nonzeros_torch": (narrow, narrow.count_nonzero),
        "nonzeros": (narrow, lambda: nonzeros(narrow)),
        "fill_torch": (wide, lambda: wide.masked_fill_(pruned, 0)),
        "fill": (wide, lambda: zero_where(wide, pruned)),
    }
    for name, (values, work) in ways.items():
        yield name, values.nbytes / shortest(work, repeats, time.process_time)


def main() -> None:
    """Measure, and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured; by default the temporary folder")
    parser.add_argument("--mebibytes", type=int, default=1024, help="of the file; default %(default)s")
    parser.add_argument("--repeats", type=int, default=3)
    add_options(parser)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    size = 1 << 20 if options.small else options.mebibytes << 20
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rates = dict(bytes_moved(Path(folder), size, options.repeats))
    rates |= dict(weights_gone_through(min(size, 4 * _PIECE), options.repeats))
    seconds = {name: amount / rates[name] for name, (_, amount) in _DONE.items()}
    print(f"{'':<16}{'GB/s':>8}{'seconds, Llama-3-8B':>22}")
    for name, (what, _) in _DONE.items():
        print(f"{name:<16}{rates[name] / 1e9:8.2f}{seconds[name]:22.1f}   {what}")
    path = options.output / "host.json"
    result = {"bytes_per_second": rates, "seconds_of_llama_3_8b": seconds, "load": os.getloadavg()[0]}
    path.write_text(json.dumps(result | {"torch": torch.__version__}, indent=1) + "\n")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
