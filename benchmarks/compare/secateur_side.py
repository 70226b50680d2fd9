"""Prunes with Secateur's streaming pass, in a separate process.

    python secateur_side.py '{"model": ..., "tokens": ..., "method": "wanda", "target": "0.5", "order": ..., ...}'

Counts the processor time of the whole pass, minus reading and writing blocks, which interleave with it; embedding the
text counts.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from processes import imported, report
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.llama.modeling_llama import LlamaForCausalLM as _LlamaForCausalLM  # noqa: F401 - the baseline

from secateur_service.calibration.sampling import TextSample
from secateur_service.library import prune_tokens
from secateur_service.models.branches import Branches
from secateur_service.models.opening import open_checkpoint
from secateur_service.models.streaming import StreamedModel
from secateur_service.pipeline.stopwatch import Stopwatch
from secateur_service.pruning.methods import METHODS, Recipe
from secateur_service.pruning.patterns import NofM, Target, Unstructured
from secateur_service.spec import ReconstructionSpec


class _TimedModel(StreamedModel):
    """Measures the embedding of the text: the pass counts it as loading, but llm-compressor does it while it prunes."""

    embedding_cpu_seconds = 0.0

    def embed(
        self, batches: Sequence[Tensor], branches: Sequence[Branches] = (), needed: Tensor | None = None
    ) -> list[Tensor]:
        began = time.process_time()
        states = super().embed(batches, branches, needed)
        self.embedding_cpu_seconds += time.process_time() - began
        return states


def _cube(shape: Sequence[int], factor: float) -> int:
    return round(factor * shape[-1] ** 3)


# Operators that torch's counter omits: their operations, from the shapes of their arguments.
_UNCOUNTED = {
    torch.ops.aten.addmm_: lambda _, left, right, **__: 2 * left[0] * left[1] * right[1],
    torch.ops.aten.linalg_cholesky_ex: lambda shape, **__: _cube(shape, 1 / 3),
    torch.ops.aten.cholesky_inverse: lambda shape, **__: _cube(shape, 2 / 3),
    # All passes here are causal, so half is attended to.
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda queries, keys, *_, **__: (
        2 * math.prod(queries) * keys[-2]
    ),
}


def _target(text: str, method: str) -> Target:
    if ":" in text:
        kept, group = text.split(":")
        return NofM(int(kept), int(group))
    return Unstructured(float(text), METHODS[method].group)


def _samples(tokens: dict[str, Tensor], purpose: str, most: int | None = None) -> dict[str, TextSample]:
    """The tensors named `purpose/language`, or their first sequences; without bytes, which are not compared."""
    found = {
        name.partition("/")[2]: ids[:most] for name, ids in sorted(tokens.items()) if name.startswith(f"{purpose}/")
    }
    return {
        name: TextSample(name, ids, torch.ones_like(ids), torch.ones_like(ids).bool(), 1) for name, ids in found.items()
    }


def main() -> None:
    """Prune, and report the cost."""
    job = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    imported()
    tokens = load_file(job["tokens"])
    calibration = _samples(tokens, "calibration")
    evaluation = _samples(tokens, "evaluation", job.get("evaluated")) if job["report"] else {}
    folder = Path(job["output"])
    model = _TimedModel(open_checkpoint(Path(job["model"])), torch.device("cpu"), torch.float32)
    target = _target(job["target"], job["method"])
    stopwatch = Stopwatch()
    run = partial(
        prune_tokens,
        model,
        calibration,
        evaluation,
        folder,
        recipe=Recipe.of(job["method"], job.get("update")),
        target=target,
        order=job["order"],
        minimax=job.get("minimax", False),
        asymmetric=job.get("asymmetric", False),
        reconstruction=ReconstructionSpec(epochs=job["epochs"]) if "epochs" in job else None,
        layer_snr=job["report"],
        stopwatch=stopwatch,
    )
    if job.get("count"):
        with FlopCounterMode(display=False, custom_mapping=_UNCOUNTED) as counter:
            run()
        by_operator = {str(operator): count for operator, count in counter.get_flop_counts()["Global"].items()}
        report(**by_operator)
        return
    run()
    _, spent = stopwatch.totals()
    counted = spent["total"] - spent["load"] - spent["write"] + model.embedding_cpu_seconds
    report(cpu_seconds=counted, **{f"{kind}_cpu_seconds": seconds for kind, seconds in spent.items()})


if __name__ == "__main__":
    main()
