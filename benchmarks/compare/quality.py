"""Judges the pruned weights of either side with plain transformers, on the same held-out tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM


@dataclass(frozen=True)
class Quality:
    """Perplexity per language."""

    perplexity: dict[str, float]

    def growth(self, dense: Self) -> float:
        """Geometric mean over languages of pruned / dense perplexity."""
        logs = [math.log(value / dense.perplexity[name]) for name, value in self.perplexity.items()]
        return math.exp(sum(logs) / len(logs))


class Judge:
    """Keeps the dense model and its perplexity.

    Args:
        model: folder of the dense model.
        tokens: held-out sequences N×S of each language, and which of their tokens stand for text.
    """

    def __init__(self, model: Path, tokens: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self._stored = {name: value.clone() for name, value in self._model.state_dict().items()}
        self._types = _stored_types(model)
        self._tokens = tokens
        self.dense = self._measure()

    @torch.no_grad()
    def judge(self, pruned: Path) -> Quality:
        """Judge the weights of a file, or of all files of a folder, rounded to the type of the dense checkpoint."""
        files = [pruned] if pruned.is_file() else sorted(pruned.glob("*.safetensors"))
        state = self._model.state_dict()
        for name, value in self._stored.items():
            state[name].copy_(value)
        for name, value in (item for file in files for item in load_file(file).items()):
            state[name].copy_(value.to(self._types[name]))
        return self._measure()

    @torch.no_grad()
    def _measure(self) -> Quality:
        perplexity = {}
        for language, (ids, is_text) in self._tokens.items():
            nats = 0.0
            for sequence, text in zip(ids, is_text[:, 1:], strict=True):
                logits = self._model(input_ids=sequence[None], use_cache=False).logits[0]
                nats += float(torch.nn.functional.cross_entropy(logits[:-1][text], sequence[1:][text], reduction="sum"))
            perplexity[language] = math.exp(nats / int(is_text[:, 1:].sum()))
        return Quality(perplexity)


def _stored_types(model: Path) -> dict[str, torch.dtype]:
    return {
        name: value.dtype for file in sorted(model.glob("*.safetensors")) for name, value in load_file(file).items()
    }
