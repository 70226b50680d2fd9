"""The measurements on a device; each returns plain figures."""

from __future__ import annotations

import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.compare.models import random_tokens, write_random_llama
from benchmarks.gpu.floor import Rates, block_floor
from benchmarks.gpu.generated import SHAPES, GeneratedModel, Shape, generated_model
from secateur_service.calibration.sampling import TextSample
from secateur_service.errors import PreemptedError
from secateur_service.library import prune_tokens
from secateur_service.models.opening import open_checkpoint
from secateur_service.models.safetensors import read_header
from secateur_service.models.streaming import StreamedModel
from secateur_service.models.tensors import TensorReader
from secateur_service.pipeline.observer import RecordingObserver
from secateur_service.pipeline.stopwatch import Stopwatch
from secateur_service.pipeline.streaming_pass import PassResult
from secateur_service.pruning.conjugate_gradient import errors, refine
from secateur_service.pruning.methods import METHODS, Moments, Recipe
from secateur_service.pruning.patterns import NofM, Target, Unstructured, prune
from secateur_service.pruning.statistics import InputStatistics
from secateur_service.records.progress import Progress
from secateur_service.spec import ReconstructionSpec

FLAGS = {
    "report": "text is evaluated, and every layer's signal-to-noise ratio measured",
    "asymmetric": "layers have the dense model's output as their target",
    "trained": "blocks are trained for one epoch",
}
BATCH_SIZES = (1, 2, 8)
LANGUAGES = ("one", "two")
Figures = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """The setting of all measurements.

    Attributes:
        device: where it computes.
        dtype: type of weights and hidden states.
        sequences: number of calibration sequences.
        length: tokens per sequence.
        blocks: number of blocks to run, at least 3; the model may have more.
        rates: the device's peak rates.
    """

    device: torch.device
    dtype: torch.dtype
    sequences: int
    length: int
    blocks: int
    rates: Rates


@dataclass(frozen=True)
class Case:
    """Blocks of a shape, pruned by a recipe.

    Attributes:
        shape: one of `SHAPES`.
        method: one of `METHODS`.
        update: replaces the method's own.
        target: a share, or `N:M`.
        order: one of `spec.ORDERS`.
        flags: of `FLAGS`.
    """

    shape: str
    method: str
    update: str | None = None
    target: str = "0.5"
    order: str = "true_sequential"
    flags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """SHAPE/METHOD[+UPDATE]/TARGET/ORDER[/FLAG...]: what `parse_case` reads."""
        recipe = self.method if self.update is None else f"{self.method}+{self.update}"
        parts = [self.shape, recipe, self.target, self.order]
        return "/".join([*parts, *self.flags])

    @property
    def pruning_target(self) -> Target:
        """How much of each layer to prune."""
        if ":" in self.target:
            kept, size = self.target.split(":")
            return NofM(int(kept), int(size))
        return Unstructured(float(self.target), METHODS[self.method].group)


def parse_case(text: str) -> Case:
    """The inverse of `Case.name`; target and order may be omitted.

    Raises:
        ValueError: no such case.
    """
    parts = text.split("/")
    flags = tuple(part for part in parts if part in FLAGS)
    parts = [part for part in parts if part not in FLAGS]
    shape, recipe, target, order, *rest = parts + ["", "", "0.5", "true_sequential"][len(parts) :]
    method, _, update = recipe.partition("+")
    if shape not in SHAPES or method not in METHODS or rest:
        raise ValueError(f"{text} is no case: SHAPE/METHOD[+UPDATE][/TARGET[/ORDER]][/FLAG...]")
    return Case(shape, method, update or None, target, order, flags)


class Clock(RecordingObserver):
    """Records when each block is done, and stops the pass at its deadline.

    Args:
        deadline: on the clock of `time.monotonic`.
        on_block: called after every block.
    """

    def __init__(self, deadline: float, on_block: Callable[[list[float]], None]) -> None:
        super().__init__()
        self.ends: list[float] = []
        self._deadline = deadline
        self._on_block = on_block

    def progress(self, progress: Progress) -> None:
        """Record the time of a block's end, once the device has finished too."""
        if progress.blocks_done <= len(self.ends):
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())
        self._on_block(self.seconds_per_block())

    def check(self) -> None:
        """Stop at the deadline."""
        if time.monotonic() > self._deadline:
            raise PreemptedError("the benchmark's time is over")

    def seconds_per_block(self) -> list[float]:
        """For all blocks except the first and the last, which do more or less than the others."""
        return [later - earlier for earlier, later in zip(self.ends[:-2], self.ends[1:-1], strict=True)]


def measure_case(case: Case, setting: Setting, deadline: float, tell: Callable[[Figures], None]) -> Figures:
    """Seconds per block compared with the floor, memory, and what the report costs.

    Args:
        case: what to prune.
        setting: the setting.
        deadline: when to stop, on the clock of `time.monotonic`; returns the figures known by then.
        tell: called with unfinished figures.
    """
    shape, device = SHAPES[case.shape], setting.device
    recipe = Recipe.of(case.method, case.update)
    floor = block_floor(shape, recipe, case.order, setting.sequences, setting.length)
    least = floor.seconds(setting.rates)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def figures(seconds: list[float]) -> Figures:
        found: Figures = {
            "seconds_of_blocks": seconds,
            "floor_seconds_per_block": least,
            "product_flops_per_block": floor.product_flops,
            "tf32_flops_per_block": floor.tf32_flops,
            "float32_flops_per_block": floor.float32_flops,
        }
        if seconds:
            middle = statistics.median(seconds)
            found |= {"seconds_per_block": middle, "times_floor": middle / least}
            found["model_seconds"] = middle * shape.blocks
        if device.type == "cuda":
            found["peak_device_bytes"] = torch.cuda.max_memory_allocated()
        return found

    clock, stopwatch = Clock(deadline, lambda seconds: tell(figures(seconds))), Stopwatch()
    model = generated_model(shape, max(3, setting.blocks), device, setting.dtype)
    stopped = False
    try:
        _prune(model, recipe, case, setting, clock, stopwatch)
    except PreemptedError:
        stopped = True
    seconds = clock.seconds_per_block()
    return figures(seconds) | {"stopped": stopped, "seconds_by_kind": stopwatch.totals()[0]}


def _prune(
    model: StreamedModel,
    recipe: Recipe,
    case: Case,
    setting: Setting,
    clock: Clock,
    stopwatch: Stopwatch,
) -> None:
    vocabulary = model.checkpoint.tensors[model.checkpoint.embedding_name].shape[0]
    calibration = {"generated": _sample("generated", setting.sequences, setting.length, vocabulary, seed=0)}
    evaluation = {}
    report = "report" in case.flags
    if report:  # half as much text as calibration, in two languages
        count = max(1, setting.sequences // 4)
        evaluation = {
            name: _sample(name, count, setting.length, vocabulary, seed) for seed, name in enumerate(LANGUAGES, 1)
        }
    with tempfile.TemporaryDirectory() as folder:
        prune_tokens(
            model,
            calibration,
            evaluation,
            Path(folder),
            recipe=recipe,
            target=case.pruning_target,
            order=case.order,
            asymmetric="asymmetric" in case.flags,
            reconstruction=ReconstructionSpec(epochs=1) if "trained" in case.flags else None,
            layer_snr=report,
            observer=clock,
            stopwatch=stopwatch,
        )


def _sample(name: str, sequences: int, length: int, vocabulary: int, seed: int) -> TextSample:
    tokens = torch.randint(vocabulary, (sequences, length), generator=torch.Generator().manual_seed(seed))
    return TextSample(name, tokens, torch.ones_like(tokens), torch.ones_like(tokens).bool(), 1)


def measure_agreement(setting: Setting, deadline: float) -> Figures:
    """Compares pruning on the device and on the host, with the same model and tokens, in float32 on both.

    For each recipe, and for the default one with what goes beyond it: the share of all mask bits that differ,
    ‖Ŵ_device − Ŵ_host‖ / ‖Ŵ_host‖, and the largest difference in log perplexity, dense and pruned.
    """
    found: Figures = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_random_llama(folder / "model", layers=2, hidden=128, intermediate=352)
        ways: dict[str, dict[str, Any]] = {method: {"recipe": Recipe.of(method)} for method in METHODS}
        ways["sparsegpt+obs"] = {"recipe": Recipe.of("sparsegpt", "obs")}
        ways["sparsegpt+cg/asymmetric"] = {"recipe": Recipe.of("sparsegpt", "cg"), "asymmetric": True}
        training = ReconstructionSpec(epochs=2, norms=True)
        ways["sparsegpt+cg/trained"] = {"recipe": Recipe.of("sparsegpt", "cg"), "reconstruction": training}
        for way, options in ways.items():
            method = re.split("[+/]", way)[0]
            options |= {"target": Unstructured(0.5, METHODS[method].group)}
            sides = [
                _pruned(folder, number, torch.device(place), deadline, **options)
                for number, place in enumerate((setting.device, "cpu"))
            ]
            (ours, ours_tensors), (host, host_tensors) = sides
            bits = sum(tensor.numel() for tensor in host_tensors.values())
            differing = sum(int(((ours_tensors[key] == 0) != (host_tensors[key] == 0)).sum()) for key in host_tensors)
            error = sum(float((ours_tensors[key] - host_tensors[key]).square().sum()) for key in host_tensors)
            power = sum(float(host_tensors[key].square().sum()) for key in host_tensors)
            found[way] = {
                "mask_bits_differing": differing / bits,
                "relative_difference": (error / power) ** 0.5,
                "dense_nats_difference": _largest_difference(ours.dense, host.dense),
                "pruned_nats_difference": _largest_difference(ours.pruned, host.pruned),
            }
    return found


def _pruned(
    folder: Path, number: int, device: torch.device, deadline: float, **options: Any
) -> tuple[PassResult, dict[str, Tensor]]:
    """Run a pass over the random model; returns its result, and the tensors that it wrote."""
    model = StreamedModel(open_checkpoint(folder / "model"), device, torch.float32)
    samples = []
    for seed in range(2):
        tokens = random_tokens(16, 64, seed)
        samples.append(
            {"random": TextSample("random", tokens, torch.ones_like(tokens), torch.ones_like(tokens).bool(), 1)}
        )
    shards = folder / f"side-{number}"
    shutil.rmtree(shards, ignore_errors=True)
    shards.mkdir()
    result = prune_tokens(model, *samples, shards, observer=Clock(deadline, lambda _: None), **options)
    reader, tensors = TensorReader(), {}
    for record in result.blocks:
        tensors |= {name: reader.read(info) for name, info in read_header(shards / record.shard).items()}
    return result, tensors


def _largest_difference(one: Any, other: Any) -> float:
    return max(abs(one[name].nats / one[name].tokens - other[name].nats / other[name].tokens) for name in other)


@torch.no_grad()
def measure_products(shape: Shape, setting: Setting, deadline: float) -> Figures:
    """Conjugate gradients with products in float32, TF32 and bfloat16, on one layer for each width of the shape.

    For each: seconds, and the layer's error relative to that of float32. Inputs are random, and correlated.
    """
    generator = torch.Generator(setting.device).manual_seed(0)

    def random(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator, device=setting.device)

    def tf32(left: Tensor, right: Tensor) -> Tensor:
        torch.backends.cuda.matmul.allow_tf32 = True
        try:
            return left @ right
        finally:
            torch.backends.cuda.matmul.allow_tf32 = False

    def bfloat16(left: Tensor, right: Tensor) -> Tensor:
        return (left.bfloat16() @ right.bfloat16()).float()

    found: Figures = {}
    clock = Clock(deadline, lambda _: None)
    for width in (shape.hidden, shape.intermediate):
        inputs = random(2 * width, width) @ (random(width, width) / width**0.5)
        hessian, weight = inputs.T @ inputs / len(inputs), random(shape.hidden, width)
        mask = prune(weight.abs(), Unstructured(0.5))
        del inputs
        exact = 0.0
        products: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "float32": torch.matmul,
            "tf32": tf32,
            "bfloat16": bfloat16,
        }
        for name, product in products.items():
            for exact_every in (0, 5) if name != "float32" else (0,):
                clock.check()
                solve = partial(refine, weight, mask, hessian, product=product, exact_every=exact_every)
                solve()
                if setting.device.type == "cuda":
                    torch.cuda.synchronize()
                began = time.perf_counter()
                error = float(errors(weight, solve(), hessian).sum())
                exact = exact or error
                found[f"{width}, {name}" + (f", float32 every {exact_every}" if exact_every else "")] = {
                    "seconds": time.perf_counter() - began,
                    "error": error / exact,
                }
    return found


@torch.no_grad()
def measure_batch_size(shape: Shape, setting: Setting, deadline: float) -> Figures:
    """Whether a block's output, and the sums over one fixed output, depend on the batch size."""
    model: GeneratedModel = generated_model(shape, 1, setting.device, setting.dtype)
    tokens = _sample("generated", max(BATCH_SIZES), setting.length, shape.vocabulary, seed=0).tokens
    outputs, sums = [], []
    clock = Clock(deadline, lambda _: None)
    for size in BATCH_SIZES:
        clock.check()
        states = model.embed(list(torch.split(tokens, size)))
        with model.block(0) as block:
            outputs.append(torch.cat([model.run_block(block, 0, batch) for batch in states]))
    for size in BATCH_SIZES:
        clock.check()
        of_input = InputStatistics(
            shape.hidden, {"": 1.0}, {"": tokens.numel()}, setting.device, moments=Moments.BY_LANGUAGE
        )
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
