"""Whole jobs on a device, from a model's files to the report: what they keep, and where their time goes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import secateur
from benchmarks.gpu.floor import block_floor
from benchmarks.gpu.generated import Shape, random_llama
from benchmarks.gpu.measurements import Clock, Figures, Setting
from benchmarks.small import Material, lengthen, write_material, write_text
from secateur_service.artifacts.manifest import MANIFEST_NAME, parse_manifest
from secateur_service.library import prune
from secateur_service.models.plan_file import PLAN_NAME, PlanFile
from secateur_service.pipeline.attempt import FinishedJob
from secateur_service.pruning.methods import Recipe

WORDS = 2000
BYTES_PER_TOKEN = 8
"""More than any of the tokenizers here needs, so that the text is long enough."""
DEFAULT = ("sparsegpt", "cg")
"""The method and the update of a job that names none."""

Tell = Callable[[Figures], None]


def measure_shrinking(setting: Setting, given: Material | None, deadline: float, tell: Tell, *, small: bool) -> Figures:
    """Jobs that make a model smaller: twice on the device, in fresh folders, and once on the host.

    One removes blocks, heads and channels, and prunes what is left; one removes rows of the vocabulary; one removes
    channels and trains the blocks. The host
    computes in float32, the device in the type of the weights.

    Args:
        setting: the setting.
        given: the user's model and text; otherwise a random model and the project's text.
        deadline: when to stop, on the clock of `time.monotonic`.
        tell: called with unfinished figures.
        small: whether the random model and the texts are tiny.
    """
    length, sequences, tokens = (64, 8, 128) if small else (256, 16, 4096)
    found: Figures = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        material = given or _random_material(folder, tokens, small=small)
        for title, parts in _ways_to_shrink(material).items():
            sides: list[Side] = []
            for place in (setting.device.type, setting.device.type, "cpu"):
                spec = _spec(material, sequences, length, tokens, **parts)
                sides.append(Side(spec, folder / f"{title}-{len(sides)}", place, deadline))
                found[title] = _compared(sides)
                tell(found)
    return found | {"same_bytes": all(found[title]["same_bytes"] for title in found), "model": _name(given)}


def _random_material(folder: Path, tokens: int, *, small: bool) -> Material:
    sizes: dict[str, Any] = {}
    if not small:
        # 384 is a multiple of 8 heads and of the 6 that stay: transformers wants that of a Llama.
        sizes = {"hidden_size": 384, "intermediate_size": 1024, "num_attention_heads": 8, "num_key_value_heads": 4}
    material = write_material(folder, words=600 if small else WORDS, num_hidden_layers=3 if small else 4, **sizes)
    for corpus in (material.calibration, material.evaluation):
        lengthen(corpus, BYTES_PER_TOKEN * tokens)
    return material


def _name(given: Material | None) -> str:
    return given.model.resolve().name if given else "random"


def _ways_to_shrink(material: Material) -> dict[str, dict[str, Any]]:
    rows = json.loads((material.model / "config.json").read_text())["vocab_size"]
    parts = {"remove_blocks": 1, "feed_forward_share": 0.25, "remove_kv_heads": 1, "sparsity": 0.5}
    return {
        "blocks, heads, channels and zeros": parts,
        "rows of the vocabulary": {"vocabulary_rows": rows // 2},
        "channels, trained": {"feed_forward_share": 0.25, "reconstruction_epochs": 2},
    }


def _spec(material: Material, sequences: int, length: int, tokens: int, **options: Any) -> dict[str, Any]:
    """A specification for all languages of the material.

    Args:
        material: the model and the text.
        sequences: of calibration, per language.
        length: tokens per sequence.
        tokens: of evaluation, per language.
        options: of `secateur.prune_spec`.
    """
    languages = sorted(path.stem for path in material.calibration.glob("*.txt"))
    return secateur.prune_spec(
        material.model.resolve().as_uri(),
        corpus=material.calibration.resolve().as_uri(),
        languages=languages,
        samples=sequences * len(languages),
        sequence_length=length,
        document_separator=material.separator,
        identify_languages=False,
        evaluation_corpus=material.evaluation.resolve().as_uri(),
        tokens_per_language=tokens,
        continuations=0,
        **options,
    )


class Side:
    """A job that ran on a device or on the host.

    Attributes:
        job: what it says of itself.
        figures: its seconds and its peak.
        checkpoint: SHA-256 of the files of the model that it wrote.
        plan: what it kept.
    """

    def __init__(self, spec: dict[str, Any], output: Path, device: str, deadline: float) -> None:
        self.job = _run(spec, output, device, Clock(deadline, lambda _: None))
        self.figures = {
            "device": device,
            "seconds": self.job.seconds,
            "peak_device_bytes": self.job.peak_device_bytes,
            "bits_per_byte": {entry.language: entry.pruned_bits_per_byte for entry in self.job.report.evaluation},
        }
        manifest = parse_manifest((output / MANIFEST_NAME).read_bytes())
        self.checkpoint = {file.path: file.sha256 for file in manifest.files if file.path.startswith("checkpoint/")}
        self.plan = PlanFile.model_validate_json((output / PLAN_NAME).read_bytes())


def _run(spec: dict[str, Any], output: Path, device: str, clock: Clock) -> FinishedJob:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return prune(spec, output, device=device, threads=torch.get_num_threads(), observer=clock)


def _compared(sides: list[Side]) -> Figures:
    """The figures of the jobs that have run so far: two on the device, one on the host."""
    found: Figures = {"jobs": [side.figures for side in sides]}
    if len(sides) > 1:
        one, two = sides[0].checkpoint, sides[1].checkpoint
        differing = sorted(path for path in one.keys() | two.keys() if one.get(path) != two.get(path))
        found |= {"same_bytes": not differing, "differing_files": differing}
    if len(sides) > 2:
        ours, host = sides[0], sides[2]
        found |= {
            "dense_bits_per_byte_difference": _largest_difference(ours.job, host.job, "dense_bits_per_byte"),
            "pruned_bits_per_byte_difference": _largest_difference(ours.job, host.job, "pruned_bits_per_byte"),
            "equal_choices": _equal_choices(ours.plan, host.plan),
        }
    return found


def _largest_difference(one: FinishedJob, other: FinishedJob, figure: str) -> float:
    """The language's that differs most."""
    pairs = zip(one.report.evaluation, other.report.evaluation, strict=True)
    return max(abs(getattr(ours, figure) - getattr(theirs, figure)) for ours, theirs in pairs)


def _equal_choices(one: PlanFile, other: PlanFile) -> dict[str, float]:
    """Of what the other keeps or removes, the share that the one does too."""
    chosen = [_choices(plan) for plan in (one, other)]
    return {
        part: len(chosen[0].get(part, set()) & choices) / len(choices) for part, choices in chosen[1].items() if choices
    }


def _choices(plan: PlanFile) -> dict[str, set[tuple[int, ...]]]:
    found = {
        f"kept {axis}": {(block, index) for block, kept in plan.narrowed(axis).items() for index in kept}
        for axis in plan.axes
    }
    found["removed blocks"] = {(entry.block,) for entry in plan.removed_blocks}
    found["kept rows"] = {(row,) for row in plan.vocabulary.indices} if plan.vocabulary else set()
    return found


def measure_job(shape: Shape, setting: Setting, deadline: float, tell: Tell) -> Figures:
    """One job on a model with random weights: fetched, pruned by the default, evaluated, written and reported.

    The text is the project's own, its sentences drawn again and again. Half as much text is evaluated.

    Args:
        shape: the model's.
        setting: the setting.
        deadline: when to stop, on the clock of `time.monotonic`.
        tell: called with unfinished figures.
    """
    method, update = DEFAULT
    floor = block_floor(shape, Recipe.of(method, update), "true_sequential", setting.sequences, setting.length)
    floor_seconds = floor.seconds(setting.rates) * shape.blocks
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random_llama(shape, setting.device, torch.bfloat16).save_pretrained(folder / "model")
        material = write_text(folder, words=min(WORDS, shape.vocabulary))
        languages = len(list(material.calibration.glob("*.txt")))
        sequences = setting.sequences // languages
        evaluated = sequences * setting.length // 2
        found: Figures = {
            "model_bytes": _size(folder / "model"),
            "bytes_of_text": _size(material.calibration),
            "calibration_tokens": languages * sequences * setting.length,
            "floor_seconds": floor_seconds,
        }
        for corpus, tokens in ((material.calibration, sequences * setting.length), (material.evaluation, evaluated)):
            lengthen(corpus, BYTES_PER_TOKEN * tokens)
        tell(found)
        spec = _spec(material, sequences, setting.length, evaluated, sparsity=0.5, method=method, update=update)
        before = _transferred()
        clock = Clock(deadline, lambda seconds: tell(found | {"seconds_of_blocks": seconds}))
        job = _run(spec, folder / "result", setting.device.type, clock)
        after = _transferred()
        provenance = json.loads((folder / "result" / "provenance.json").read_bytes())
        return found | {
            "seconds": job.seconds,
            "cpu_seconds": job.cpu_seconds,
            "seconds_of_blocks": clock.seconds_per_block(),
            "times_floor": job.seconds["total"] / floor_seconds,
            "prune_times_floor": job.seconds["prune"] / floor_seconds,
            "peak_host_bytes": provenance["measured"]["peak_host_bytes"],
            "peak_device_bytes": job.peak_device_bytes,
            "estimate": provenance["estimate"],
            "result_bytes": _size(folder / "result"),
            "transferred": {kind: after[kind] - before[kind] for kind in after},
            "calibration_bytes": sum(entry.bytes for entry in job.report.calibration),
            "evaluation_tokens": sum(entry.tokens for entry in job.report.evaluation),
        }


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _transferred() -> dict[str, int]:
    """Bytes that this process has read and written, also those that never met a disk; empty where that is not known."""
    path = Path("/proc/self/io")
    if not path.exists():
        return {}
    counted = dict(line.split(": ") for line in path.read_text().splitlines())
    return {"read_bytes": int(counted["rchar"]), "written_bytes": int(counted["wchar"])}
