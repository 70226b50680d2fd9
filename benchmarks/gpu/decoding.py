"""How fast a smaller model decodes on a device: the speed alone, with random weights and transformers' `generate`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from transformers import LlamaForCausalLM

from benchmarks.gpu.generated import Shape, random_llama
from benchmarks.gpu.measurements import Clock, Figures, Setting

BATCHES = (1, 32)
PROMPT = 16


def measure_decoding(
    shape: Shape, setting: Setting, deadline: float, tell: Callable[[Figures], None], *, small: bool
) -> Figures:
    """Tokens per second of a model, and of one with 3/4 of its blocks and half of its channels and tokens.

    They take turns, so that whatever slows the machine meets both; the first, slower turn does not count. The figures
    are of the median turn.

    Args:
        shape: the dense model's.
        setting: the setting.
        deadline: when to stop, on the clock of `time.monotonic`.
        tell: called with unfinished figures.
        small: whether to decode few tokens, in few turns.
    """
    count, rounds = (4, 2) if small else (64, 5)
    smaller = replace(
        shape, blocks=shape.blocks * 3 // 4, intermediate=shape.intermediate // 2, vocabulary=shape.vocabulary // 2
    )
    shapes = {"dense": shape, "smaller": smaller}
    models = {name: random_llama(each, setting.device, setting.dtype) for name, each in shapes.items()}
    found: Figures = {
        "new_tokens": count,
        "rounds": rounds,
        "parameters": {name: model.num_parameters() for name, model in models.items()},
        "tokens_per_second": {},
        "times_dense": {},
    }
    clock = Clock(deadline, lambda _: None)
    for batch in BATCHES:
        seconds: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(rounds + 1):
            for name, model in models.items():
                clock.check()
                seconds[name].append(_seconds(model, shapes[name].vocabulary, batch, count))
        rates = {name: batch * count / statistics.median(spent[1:]) for name, spent in seconds.items()}
        found["tokens_per_second"][f"batch {batch}"] = rates
        found["times_dense"][f"batch {batch}"] = rates["smaller"] / rates["dense"]
        tell(found)
    return found


@torch.no_grad()
def _seconds(model: LlamaForCausalLM, vocabulary: int, batch: int, count: int) -> float:
    """Seconds for `count` tokens of each text, the prompt's included."""
    prompt = torch.randint(vocabulary, (batch, PROMPT), generator=torch.Generator().manual_seed(0)).to(model.device)
    model.generation_config.eos_token_id = None  # nothing ends a text early
    began = _now()
    output = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=count, pad_token_id=0
    )
    seconds = _now() - began
    assert output.shape == (batch, PROMPT + count), output.shape
    return seconds


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
