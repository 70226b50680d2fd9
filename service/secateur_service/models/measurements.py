"""What is measured on the predictions of a model, while slices of its vocabulary arrive one after the other.

Neither the logits of all tokens nor those of the whole vocabulary are ever in memory. The slices are combined by a
running log-sum-exp. The sums are kept where the logits are computed: to fetch them after every slice would make an
accelerator wait for the host, ten times for each.

Shapes: B sequences, S tokens, d hidden size, V vocabulary; t tokens whose logits arrive together, v rows of the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

_HOST = torch.device("cpu")


class Measurement(Protocol):
    """Something that a head measures.

    Attributes:
        copies: for each of the models whose predictions are looked at together, hidden states of every batch after its
            last block; the head replaces them by its inputs.
    """

    copies: list[list[Tensor]]

    def predicting(self, states: Tensor) -> Tensor:
        """Those hidden states of a batch whose predictions matter."""

    def add(self, batch: int, logits: Sequence[Tensor], start: int, piece: slice) -> None:
        """Add logits t×v in float32 of every copy, which may be overwritten.

        Args:
            batch: which batch they belong to.
            logits: those of each copy.
            start: the first of the v tokens of the vocabulary; the slices arrive in ascending order.
            piece: the t of the batch's tokens.
        """


class TokenLosses:
    """Cross-entropy of every next token.

    Args:
        states: hidden states B×S×d of every batch.
        tokens: token ids B×S of every batch.
        device: where the logits are computed.
    """

    def __init__(self, states: list[Tensor], tokens: Sequence[Tensor], device: torch.device = _HOST) -> None:
        self.copies = [states]
        self._sums = [_Sums(ids[:, 1:], device) for ids in tokens]

    def predicting(self, states: Tensor) -> Tensor:
        """All but those of the last token."""
        return states[:, :-1]

    def add(self, batch: int, logits: Sequence[Tensor], start: int, piece: slice) -> None:
        """As for every measurement."""
        self._sums[batch].add(logits[0], logits[0].logsumexp(-1), start, piece)

    def losses(self) -> list[Tensor]:
        """Nats B×(S−1) of every batch, on the host in float64."""
        return [each.losses() for each in self._sums]


@dataclass(frozen=True)
class Compared:
    """What two models predict for the next tokens of a batch; each B×(S−1), on the host.

    Attributes:
        dense: cross-entropy of the token that follows in the one, nats, float64.
        pruned: the same in the other.
        divergence: KL(dense ‖ pruned) = Σ p·log(p / q) over the vocabulary, nats, float64.
        agrees: whether both hold the same token for the most probable.
    """

    dense: Tensor
    pruned: Tensor
    divergence: Tensor
    agrees: Tensor


class Comparison:
    """What two models predict at every position, and how far the second is from the first.

    Args:
        dense: hidden states B×S×d of every batch of one model.
        pruned: the same of the other; both have the same head.
        tokens: token ids B×S of every batch.
        device: where the logits are computed.
    """

    def __init__(
        self, dense: list[Tensor], pruned: list[Tensor], tokens: Sequence[Tensor], device: torch.device = _HOST
    ) -> None:
        self.copies = [dense, pruned]
        self._sums = [ComparedSums(ids[:, 1:], device) for ids in tokens]

    def predicting(self, states: Tensor) -> Tensor:
        """All but those of the last token."""
        return states[:, :-1]

    def add(self, batch: int, logits: Sequence[Tensor], start: int, piece: slice) -> None:
        """As for every measurement."""
        dense, pruned = logits
        self._sums[batch].add(dense, pruned, start, piece)

    def compared(self) -> list[Compared]:
        """What was found for every batch."""
        return [each.compared() for each in self._sums]


class TargetScores:
    """What given tokens are predicted with, and whether they are the most probable ones.

    Args:
        states: hidden states N×d.
        positions: for each of M targets, the row of the states that predicts it; ascending.
        targets: token ids M.
    """

    def __init__(self, states: Tensor, positions: Tensor, targets: Tensor) -> None:
        self.copies = [[states]]
        self._positions, self._targets = positions, targets
        self._log_sums, self._chosen = torch.full((len(states),), -torch.inf), torch.zeros(len(targets))
        self._highest = torch.full((len(states),), -torch.inf)
        self._best = torch.zeros(len(states), dtype=torch.long)

    def predicting(self, states: Tensor) -> Tensor:
        """All."""
        return states

    def add(self, batch: int, logits: Sequence[Tensor], start: int, piece: slice) -> None:  # noqa: ARG002
        """As for every measurement; there is one batch."""
        (logits_tv,) = logits
        self._log_sums[piece] = torch.logaddexp(self._log_sums[piece], logits_tv.logsumexp(-1).cpu())
        values, tokens = (found.cpu() for found in logits_tv.max(-1))
        is_higher = values > self._highest[piece]  # of equal ones the first
        self._best[piece] = torch.where(is_higher, start + tokens, self._best[piece])
        self._highest[piece] = torch.where(is_higher, values, self._highest[piece])
        some = slice(*torch.searchsorted(self._positions, torch.tensor([piece.start, piece.stop])).tolist())
        rows, local = self._positions[some] - piece.start, self._targets[some] - start
        inside = (local >= 0) & (local < logits_tv.shape[1])
        at = local.clamp(0, logits_tv.shape[1] - 1)
        picked = logits_tv[rows.to(logits_tv.device), at.to(logits_tv.device)].cpu()
        self._chosen[some] = torch.where(inside, picked, self._chosen[some])

    def found(self) -> tuple[Tensor, Tensor]:
        """Log-probabilities M of the targets in nats, in float64, and booleans M, on the host."""
        nats = self._chosen.double() - self._log_sums[self._positions].double()
        return nats, self._best[self._positions] == self._targets


class _Sums:
    """Sums over the vocabulary for the tokens of a batch.

    Args:
        targets: ids B×S.
        device: where the logits are computed.
    """

    def __init__(self, targets: Tensor, device: torch.device) -> None:
        self._shape = targets.shape
        self._targets = targets.reshape(-1).to(device)
        self.log_sum = torch.full(self._targets.shape, -torch.inf, device=device)
        self._chosen = torch.zeros(self._targets.shape, device=device)

    def add(self, logits: Tensor, log_sum: Tensor, start: int, piece: slice) -> None:
        """Add the logits t×v of a piece of the tokens for the vocabulary from `start`, and their log-sum-exp t."""
        self.log_sum[piece] = torch.logaddexp(self.log_sum[piece], log_sum)
        rows = logits.shape[-1]
        local = self._targets[piece] - start
        inside = (local >= 0) & (local < rows)
        picked = logits.gather(-1, local.clamp(0, rows - 1)[:, None])[:, 0]
        self._chosen[piece] = torch.where(inside, picked, self._chosen[piece])

    def losses(self) -> Tensor:
        """Cross-entropy of the targets, B×S in float64, on the host."""
        return (self.log_sum.double() - self._chosen.double()).view(self._shape).cpu()


class ComparedSums:
    """The sums of two models, with those of one weighted by the predictions of the other; as in `_Sums`."""

    def __init__(self, targets: Tensor, device: torch.device) -> None:
        self._shape = targets.shape
        count = targets.numel()
        self._dense, self._pruned = _Sums(targets, device), _Sums(targets, device)
        self._difference = torch.zeros(count, device=device)  # of the logits, as the dense model expects it
        self._best = torch.full((count,), -torch.inf, device=device)  # of the dense model
        self._there = torch.zeros(count, device=device)  # the pruned model's logit in the same place
        self._best_pruned = torch.full((count,), -torch.inf, device=device)

    def add(self, dense: Tensor, pruned: Tensor, start: int, piece: slice) -> None:
        """Add the logits t×v of both, which are overwritten."""
        peak, place = dense.max(-1)
        odds = (dense - peak[:, None]).exp_()
        mass = odds.sum(-1)
        log_sum, before = peak + mass.log(), self._dense.log_sum[piece].clone()
        self._dense.add(dense, log_sum, start, piece)
        self._pruned.add(pruned, pruned.logsumexp(-1), start, piece)
        there = pruned.gather(-1, place[:, None])[:, 0]
        self._there[piece] = torch.where(peak > self._best[piece], there, self._there[piece])
        self._best[piece] = torch.maximum(self._best[piece], peak)
        self._best_pruned[piece] = torch.maximum(self._best_pruned[piece], pruned.amax(-1))
        # The mean over all slices is that of each, weighted by its probability.
        after = self._dense.log_sum[piece]
        expected = odds.mul_(dense.sub_(pruned)).sum(-1) / mass * (log_sum - after).exp()
        self._difference[piece] = self._difference[piece] * (before - after).exp() + expected

    def compared(self) -> Compared:
        """The result."""
        divergence = self._difference.double() - self._dense.log_sum.double() + self._pruned.log_sum.double()
        found = divergence.clamp(min=0), self._there == self._best_pruned
        return Compared(self._dense.losses(), self._pruned.losses(), *(each.view(self._shape).cpu() for each in found))
