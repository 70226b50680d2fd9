"""Prunes with llm-compressor, as in its documentation, in a separate process; imports nothing from Secateur.

    python llmcompressor_side.py '{"model": ..., "tokens": ..., "method": "wanda", "target": "0.5", ...}'

The model is loaded before the clock starts, and the pruned weights are stored after it stops. The clock measures one
call of `oneshot` on prepared tokens: fx tracing, the sequential pipeline over decoder layers with its two forward
passes per layer (calibrate, then propagate), and pruning. Batches of one sequence are its default.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from llmcompressor import oneshot
from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
from llmcompressor.pipelines.sequential import pipeline
from processes import imported, report
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import LlamaForCausalLM as _LlamaForCausalLM  # noqa: F401 - the baseline

_MODIFIERS = {"wanda": WandaPruningModifier, "sparsegpt": SparseGPTModifier}


def _collate(rows: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    ids = torch.stack(rows)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _modifier(method: str, target: str) -> Any:
    share, structure = (float(target), "0:0") if ":" not in target else (0.5, target)
    return _MODIFIERS[method](sparsity=share, mask_structure=structure, targets=["Linear"], ignore=["re:.*lm_head"])


def _timed_tracing(seconds: list[float]) -> None:
    """Make `trace_subgraphs` add its time to `seconds`: a fixed cost, reported separately."""
    trace = pipeline.trace_subgraphs

    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.process_time()
        try:
            return trace(*args, **kwargs)
        finally:
            seconds.append(time.process_time() - began)

    pipeline.trace_subgraphs = timed


def main() -> None:
    """Prune, and report the cost."""
    job = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    imported()
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    sequences = torch.cat([ids for _, ids in sorted(load_file(job["tokens"]).items())])
    tracing: list[float] = []
    _timed_tracing(tracing)
    began = time.process_time()
    oneshot(
        model=model,
        # Required but never used, because the text comes as tokens.
        processor=PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"?": 0}, unk_token="?"))),
        dataset=DataLoader(list(sequences), batch_size=job["batch"], collate_fn=_collate),  # type: ignore[arg-type]
        recipe=[_modifier(job["method"], job["target"])],
        pipeline="sequential",
        propagate_error=job["propagate"],
    )
    cpu_seconds = time.process_time() - began
    report(cpu_seconds=cpu_seconds, tracing_cpu_seconds=sum(tracing))
    pruned = {
        f"{name}.weight": module.weight.detach()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not name.endswith("lm_head")
    }
    save_file(pruned, job["output"])


if __name__ == "__main__":
    main()
