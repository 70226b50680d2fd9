"""Which tokens of an evaluation text count, and the sums over them: of the language, and of every document."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur_service.evaluation.perplexity import Likeness, Losses
from secateur_service.evaluation.windows import lengths


@dataclass(frozen=True)
class Scored:
    """Which tokens of a language's text count, and what for.

    Attributes:
        token_bytes: N×S bytes per token.
        is_text: N×S, whether a token stands for text.
        document_of: N×S, the number of each token's document; None if each of the N sequences is one.
    """

    token_bytes: Tensor
    is_text: Tensor
    document_of: Tensor | None = None

    def losses(self, batches: Sequence[Tensor]) -> Losses:
        """Sum the losses of the language.

        Args:
            batches: B×(S−1) nats per batch, together N×(S−1); a window's first token has none.

        Raises:
            FloatingPointError: a loss is NaN or infinite.
        """
        nats_T, bytes_T = self._of_scored(batches), self.token_bytes[:, 1:][self._scored].double()
        found = self._by_document(torch.stack([nats_T.double(), torch.ones_like(bytes_T), bytes_T], 1))
        nats = sum(float(part.sum()) for part in self._parts(batches))
        if not math.isfinite(nats):
            raise FloatingPointError("losses that are not finite")
        return Losses(nats, len(nats_T), int(bytes_T.sum()), found, self._of_beginnings(batches))

    def likeness(self, divergence: Sequence[Tensor], agrees: Sequence[Tensor]) -> Likeness | None:
        """Sum what two models' predictions have in common; None if that is no number, as where logits are infinite.

        Args:
            divergence: B×(S−1) nats per batch.
            agrees: B×(S−1) booleans per batch.
        """
        both_T2 = torch.stack([self._of_scored(divergence).double(), self._of_scored(agrees).double()], 1)
        nats, agreed = both_T2.sum(0).tolist()
        if not math.isfinite(nats):
            return None
        return Likeness(nats, int(agreed), len(both_T2), self._by_document(both_T2))

    @property
    def _scored(self) -> Tensor:
        return self.is_text[:, 1:]

    def _parts(self, batches: Sequence[Tensor]) -> list[Tensor]:
        masks = self._scored.split([len(batch) for batch in batches])
        return [batch[mask] for batch, mask in zip(batches, masks, strict=True)]

    def _of_scored(self, batches: Sequence[Tensor]) -> Tensor:
        return torch.cat(self._parts(batches))

    def _of_beginnings(self, batches: Sequence[Tensor]) -> Tensor:
        """Nats and scored tokens of the first tokens of every window, N×K×2 in float64; K lengths."""
        parts = zip(batches, self._scored.split([len(batch) for batch in batches]), strict=True)
        nats_NS = torch.cat([batch.double().masked_fill(~mask, 0) for batch, mask in parts])
        both_NS2 = torch.stack([nats_NS, self._scored.double()], -1)
        ends = lengths(self.is_text.shape[1])  # the first token of a window has no loss
        return torch.stack([both_NS2[:, : end - 1].sum(1) for end in ends], 1) if ends else both_NS2[:, :0]

    def _by_document(self, values_TK: Tensor) -> Tensor:
        numbers = self.document_of
        if numbers is None:
            numbers = torch.arange(len(self.is_text))[:, None].expand(self.is_text.shape)
        numbers_T = numbers[:, 1:][self._scored]
        count = int(numbers_T.max()) + 1 if len(numbers_T) else 0
        return torch.zeros(count, values_TK.shape[1], dtype=values_TK.dtype).index_add_(0, numbers_T, values_TK)
