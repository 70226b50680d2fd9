"""What continuations of evaluation text cost: greedy writing takes every weight once for each token. Without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from secateur_service.models.checkpoint import Checkpoint
from secateur_service.models.safetensors import DTYPE_BYTES
from secateur_service.spec import PruneSpec

PROMPT_TOKENS = 32
"""The most tokens of a document that both models continue."""
NEW_TOKENS = 48
"""The most tokens that each adds."""
BATCH_TEXTS = 16
"""Texts that are continued at once; what a model writes depends on it."""
DEFAULT_CONTINUATIONS = 3
"""Texts of each language, where the model is small."""
SMALL_MODEL_BYTES = 2_000_000_000
"""The most that the weights of such a model take in memory."""

# Probabilities and their copies, in float32, beside the logits of each text's last token.
_LOGITS_COPIES = 4


@dataclass(frozen=True)
class Continuing:
    """Continuing some texts with one model.

    Attributes:
        texts: how many.
        prompt: the most tokens of each.
        new: the most tokens that are added to each.
        parameters: of the model.
        weights_bytes: of the whole model in memory.
        cache_bytes: of the keys and values of a batch, and of its logits.
    """

    texts: int
    prompt: int
    new: int
    parameters: int
    weights_bytes: int
    cache_bytes: int

    @classmethod
    def of(cls, checkpoint: Checkpoint, spec: PruneSpec, *, on_device: bool) -> Self:
        """With a model that computes on an accelerator, in the stored type, or on a CPU, in float32."""
        item = item_bytes(checkpoint, on_device=on_device)
        prompt, new = lengths(checkpoint.max_sequence_length)
        vocabulary, hidden = checkpoint.tensors[checkpoint.head_name].shape
        texts = (spec.evaluation.continuations or 0) * len(spec.evaluation.languages)
        batch = min(texts, BATCH_TEXTS)
        cached = 2 * (prompt + new) * hidden * checkpoint.num_blocks * item  # at most as wide as the hidden states
        logits = _LOGITS_COPIES * 4 * vocabulary
        size = sum(math.prod(info.shape) for info in checkpoint.of_text)
        return cls(texts, prompt, new, size, size * item, batch * (cached + logits))

    @property
    def peak_bytes(self) -> int:
        """Memory where the model computes; 0 if there is nothing to continue."""
        return self.weights_bytes + self.cache_bytes if self.texts else 0

    @property
    def flops(self) -> float:
        """Operations with one model: two for each weight and token."""
        return 2.0 * self.texts * (self.prompt + self.new) * self.parameters

    @property
    def moved_bytes(self) -> float:
        """Bytes of weights that are read with one model, all of them for every token of a batch."""
        return float(self.weights_bytes) * self.new * -(-self.texts // BATCH_TEXTS)


def item_bytes(checkpoint: Checkpoint, *, on_device: bool) -> int:
    """Bytes of a weight while computing."""
    return DTYPE_BYTES[checkpoint.weight_dtype] if on_device else 4


def default_continuations(checkpoint: Checkpoint, *, on_device: bool) -> int:
    """How many texts of each language are continued unless the specification says."""
    weights = checkpoint.parameters * item_bytes(checkpoint, on_device=on_device)
    return DEFAULT_CONTINUATIONS if weights <= SMALL_MODEL_BYTES else 0


def lengths(longest: int | None) -> tuple[int, int]:
    """Tokens of a prompt and of what is added, at the most, for a model that takes `longest` tokens."""
    if longest is None:
        return PROMPT_TOKENS, NEW_TOKENS
    return max(1, min(PROMPT_TOKENS, longest // 4)), max(1, min(NEW_TOKENS, longest // 2))
