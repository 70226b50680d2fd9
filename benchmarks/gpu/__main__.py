"""The engine on one accelerator: blocks of real shapes compared with their floor, within a given time.

    python -m benchmarks.gpu [--seconds 420] [--device cuda|cpu] [--small] [--output DIR] [--case SHAPE/METHOD...]
                             [--model DIR --calibration DIR --evaluation DIR]

Measures, in this order, as far as time permits:

- whether the device prunes as the host does;
- whether jobs that make a model smaller write the same bytes twice, and keep what the host keeps: of the model that is
  given, or of a random one;
- seconds per block of Llama-3-8B's shape, with Wanda and with the default;
- a whole job on a model of Llama-3.2-1B's shape, from its files to its report;
- tokens per second of that shape, beside one with fewer blocks, channels and tokens;
- whether a block's output depends on how many sequences share a batch;
- what the dense model's output as the target costs, and an epoch of training;
- what conjugate gradients gain and lose by products in TF32 and bfloat16;
- what the report costs; 70B; 2:4 and order `block`; 405B; the other methods.

Seconds per block are the median over all blocks except the first and the last, which do more or less than the others.
Everything runs through the engine's own pass. gpu-DEVICE.json is rewritten after every block, so that no measurement is
lost if the run is cut short; of a measurement that fails, its traceback and what it had measured are kept.
`--case` replaces the list: SHAPE/METHOD[+UPDATE][/TARGET[/ORDER]][/FLAG...], for example llama-3-8b/wanda+cg/2:4/block.
The flags are report, asymmetric and trained.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.decoding import measure_decoding
from benchmarks.gpu.floor import Rates
from benchmarks.gpu.generated import SHAPES
from benchmarks.gpu.jobs import measure_job, measure_shrinking
from benchmarks.gpu.measurements import (
    Case,
    Figures,
    Setting,
    measure_agreement,
    measure_batch_size,
    measure_case,
    measure_products,
    parse_case,
)
from benchmarks.small import Material, add_material, add_options
from secateur_service.errors import PreemptedError

# For an H200, whose matrix products are as fast as an H100's, and for one core of a server processor.
TFLOPS = {"cuda": (790.0, 395.0, 60.0), "cpu": (0.075, 0.075, 0.075)}
PACKAGES = ("torch", "transformers", "huggingface_hub", "tokenizers", "triton")
FIRST = [
    Case("llama-3-8b", "wanda"),
    Case("llama-3-8b", "sparsegpt", "cg"),
    Case("llama-3-8b", "sparsegpt", "cg", flags=("asymmetric",)),
    Case("llama-3-8b", "sparsegpt", "cg", flags=("trained",)),
]
LATER = [
    Case("llama-3-8b", "wanda", flags=("report",)),
    Case("llama-3-8b", "sparsegpt", "cg", flags=("report",)),
    Case("llama-3-8b", "alps"),
    Case("llama-3-8b", "sparsegpt", "obs"),
    Case("70b", "sparsegpt", "cg"),
    Case("70b", "wanda"),
    Case("llama-3-8b", "sparsegpt", "obs", target="2:4"),
    Case("llama-3-8b", "wanda", order="block"),
    Case("405b", "wanda"),
    Case("llama-3-8b", "ria"),
    Case("70b", "sparsegpt", "obs"),
]
SMALL = [
    Case("tiny", "wanda"),
    Case("tiny", "sparsegpt", "cg", flags=("report", "asymmetric")),
    Case("tiny", "sparsegpt", "cg", flags=("trained",)),
]

SHOWN = ("seconds_per_block", "times_floor", "peak_device_bytes", "same_bytes", "times_dense")
"""Figures that are also printed."""

Measurement = Callable[[float, Callable[[Figures], None]], Figures]


def measurements(
    setting: Setting, cases: list[Case], given: Material | None, *, small: bool
) -> Iterator[tuple[str, Measurement]]:
    """Names and functions; each function takes a deadline and a callback for unfinished figures."""

    def case(chosen: Case) -> tuple[str, Measurement]:
        return chosen.name, lambda deadline, tell: measure_case(chosen, setting, deadline, tell)

    if cases:
        yield from map(case, cases)
        return
    yield "agreement with the host", lambda deadline, _: measure_agreement(setting, deadline)
    yield "shrinking", partial(measure_shrinking, setting, given, small=small)
    yield from map(case, SMALL if small else FIRST)
    whole = SHAPES["tiny" if small else "llama-3.2-1b"]
    yield "a real job", partial(measure_job, whole, setting)
    yield "decoding", partial(measure_decoding, whole, setting, small=small)
    shape = SHAPES["tiny" if small else "llama-3-8b"]
    yield "products", lambda deadline, _: measure_products(shape, setting, deadline)
    yield "batch size", lambda deadline, _: measure_batch_size(shape, setting, deadline)
    if not small:
        yield from map(case, LATER)


def surroundings(device: torch.device) -> dict[str, Any]:
    """The environment that the figures depend on."""
    versions = {"python": platform.python_version(), "cuda": str(torch.version.cuda)}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "none"
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if on_gpu else platform.processor() or "cpu",
        "device_bytes": torch.cuda.get_device_properties(device).total_memory if on_gpu else None,
        "driver": driver_version() if on_gpu else None,
        "threads": torch.get_num_threads(),
        "versions": versions,
    }


def driver_version() -> str | None:
    """The version of the accelerator's driver; None if it cannot be determined."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    asked = [command, "--query-gpu=driver_version", "--format=csv,noheader"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60)
    return found.stdout.splitlines()[0].strip() if found.returncode == 0 and found.stdout else None


class Results:
    """The results file, rewritten with every new result."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path = path
        self._content = content
        self._figures: dict[str, Figures] = content.setdefault("measurements", {})

    def keep(self, name: str, figures: Figures) -> None:
        """Save the figures of a measurement."""
        self._figures[name] = figures
        partial_path = self.path.with_name(self.path.name + ".partial")
        partial_path.write_text(json.dumps(self._content, indent=1) + "\n", encoding="utf-8")
        partial_path.replace(self.path)


def measure(name: str, measurement: Measurement, deadline: float, results: Results) -> None:
    """Run one measurement, save and print its figures; a failure does not stop the others."""
    began = time.monotonic()
    known: Figures = {}

    def tell(figures: Figures) -> None:
        known.update(figures)
        results.keep(name, figures | {"state": "running"})

    if began > deadline:
        figures: Figures = {"state": "not run, the time was over"}
    else:
        try:
            figures = measurement(deadline, tell)
            figures["state"] = "stopped, the time was over" if figures.pop("stopped", False) else "finished"
        except PreemptedError:
            figures = known | {"state": "stopped, the time was over"}
        except Exception as error:  # noqa: BLE001 - for example out of memory: the next shape may fit
            failure = {"state": f"failed: {type(error).__name__}: {str(error)[:500]}"}
            figures = known | failure | {"traceback": traceback.format_exc().splitlines()}
    figures["measured_seconds"] = round(time.monotonic() - began, 2)
    results.keep(name, figures)
    told = {key: figures[key] for key in SHOWN if key in figures}
    print(f"{name:<45} {figures['state']}  {told}", flush=True)


def main() -> None:
    """Measure until time runs out."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=420.0, help="the time for all, the imports left out")
    parser.add_argument("--case", type=parse_case, action="append", default=[], help="instead of the list; repeatable")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sequences", type=int, help="of calibration; default 128")
    parser.add_argument("--length", type=int, help="tokens per sequence; default 2048")
    parser.add_argument("--blocks", type=int, default=5, help="blocks to run, at least 3; the model may have more")
    parser.add_argument("--tflops", type=float, nargs=3, help="of products in 16 bits, in TF32, and in float32")
    add_material(parser)
    add_options(parser)
    options = parser.parse_args()
    folders = (options.model, options.calibration, options.evaluation)
    if any(folders) and not all(folders):
        parser.error("give --model, --calibration and --evaluation, or none of them")
    given = Material(*folders, options.separator) if all(folders) else None
    device = torch.device(options.device)
    setting = Setting(
        device,
        torch.bfloat16 if device.type == "cuda" else torch.float32,
        options.sequences or (4 if options.small else 128),
        options.length or (64 if options.small else 2048),
        options.blocks,
        Rates(*(rate * 1e12 for rate in options.tflops or TFLOPS[device.type])),
    )
    found = surroundings(device)
    content = {
        **found,
        "dtype": str(setting.dtype),
        "sequences": setting.sequences,
        "length": setting.length,
        "seconds": options.seconds,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"\W+", "-", found["device"]).strip("-").lower()
    results = Results(options.output / f"gpu-{name}.json", content)
    run = partial(measure, deadline=began + options.seconds, results=results)
    for title, measurement in measurements(setting, options.case, given, small=options.small):
        run(title, measurement)
    print(f"written: {results.path}")


if __name__ == "__main__":
    main()
