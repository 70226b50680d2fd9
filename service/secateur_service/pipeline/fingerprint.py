"""The conditions under which a job's bytes are guaranteed to be the same.

Floating-point sums depend on the hardware, the number of threads and the libraries. A resumed job reuses the finished
blocks of an earlier attempt only if all of this is the same; otherwise it starts again, because a mixture of blocks
would match neither result.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from secateur_service import __version__
from secateur_service.calibration.sampling import TextSample
from secateur_service.durable import write_durably
from secateur_service.models.plan import OutputPlan
from secateur_service.pipeline.batches import batch_sequences
from secateur_service.pipeline.observer import JobObserver
from secateur_service.pruning.ranks import DIVISION, SHARDS
from secateur_service.spec import PruneSpec


def fingerprint(
    plan: OutputPlan,
    spec: PruneSpec,
    calibration: Mapping[str, TextSample],
    evaluation: Mapping[str, TextSample],
    device: torch.device,
    dtype: torch.dtype,
    *,
    small_batches: bool = False,
) -> dict[str, Any]:
    """Everything that a result's bytes depend on, as plain JSON types."""
    length = next(iter(evaluation.values())).tokens.shape[1]
    return {
        **arithmetic(device, dtype),
        "batch_sequences": batch_sequences(length, device, small=small_batches),
        "shards": SHARDS,
        "division": DIVISION,
        "model": plan.dense.structure_digest(),
        **({} if plan.is_identity else {"plan": plan.digest()}),
        "spec": spec.model_dump(
            mode="json", include={"model", "calibration", "pruning", "reconstruction", "evaluation"}
        ),
        "calibration": {name: sample.digest() for name, sample in calibration.items()},
        "evaluation": {name: sample.digest() for name, sample in evaluation.items()},
    }


def arithmetic(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Everything that the result of a sum depends on beside its terms, as plain JSON types."""
    return {
        "secateur": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": device_name(device),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
    }


def begin_under(conditions: Mapping[str, Any], workdir: Path, shards: Path, observer: JobObserver) -> str:
    """Keep the conditions in the work directory; empties the folder of finished blocks that were made under others.

    Args:
        conditions: see `fingerprint`.
        workdir: the job's work directory, with `fingerprint.json`.
        shards: the folder of finished blocks.
        observer: is told of what changed.

    Returns:
        Their SHA-256, which goes with every block.
    """
    path, encoded = workdir / "fingerprint.json", json.dumps(conditions, sort_keys=True).encode()
    if path.exists() and path.read_bytes() != encoded:
        before = json.loads(path.read_bytes())
        changed = sorted(key for key in conditions if before.get(key) != conditions[key])
        observer.log("warning", "starting again: finished blocks were made under other conditions", changed=changed)
        shutil.rmtree(shards, ignore_errors=True)
        (workdir / "targets.json").unlink(missing_ok=True)
    shards.mkdir(parents=True, exist_ok=True)
    write_durably(path, encoded)
    return hashlib.sha256(encoded).hexdigest()


def device_name(device: torch.device) -> str:
    """The model name of the device, for display and for the fingerprint."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def device_in_words(conditions: Mapping[str, Any]) -> str:
    """What a job computes on, for people, from its fingerprint."""
    if conditions["device"] != "cpu":
        return str(conditions["device"])
    threads = conditions["threads"]
    capability = "" if conditions["cpu_capability"] == "DEFAULT" else f" with {conditions['cpu_capability']}"
    return f"CPU ({conditions['machine']}{capability}), {threads} thread{'s' if threads != 1 else ''}"
