"""What follows the last block of a streamed model: the final norm, the head, and any transform of the logits.

The norm runs on slices of tokens, the head on slices of tokens and of the vocabulary, so that neither the head nor the
logits need fit in memory as a whole. The slices of the vocabulary are combined by a running log-sum-exp.

Shapes: B sequences, S tokens, d hidden size, V vocabulary; the head may be narrower than the hidden states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur_service.models.budget import HEAD_SLICE_BYTES, LOGITS_SLICE_BYTES

_MAX_HEAD_TOKENS = 4096
# Floating-point operations between two calls of `check`.
_HEAD_PIECE_OPERATIONS = {"cpu": 2.0**33, "cuda": 2.0**43}
# The largest share of the head's work that may be run as a trial to predict how long it will take.
_TRIED_SHARE = 1 / 64
_LOGITS_SPREAD = 3.0  # standard deviation of a token's logits, as in a trained model


@dataclass(frozen=True)
class Head:
    """The end of a model, with one slice at a time in memory.

    Attributes:
        shape: shape of the head's matrix.
        hidden: d.
        device: where it computes.
        dtype: type of weights and hidden states while computing.
        rows: loads rows [start, stop) of the matrix onto the device.
        run: logits t×1×v of the model, with hidden states t×d in place of its blocks' output, and with another head.
        put_aside: moves hidden states to where they wait.
        check: called between two pieces of work; raises to stop.
    """

    shape: tuple[int, ...]
    hidden: int
    device: torch.device
    dtype: torch.dtype
    rows: Callable[[int, int], Tensor]
    run: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]
    put_aside: Callable[[Tensor], Tensor]
    check: Callable[[], None]

    @torch.no_grad()
    def token_losses(
        self,
        copies: Sequence[list[Tensor]],
        tokens: Sequence[Tensor],
        on_piece: Callable[[float], None] = lambda _: None,
    ) -> list[list[Tensor]]:
        """Cross-entropy of every next token, for several copies of the hidden states after the last block.

        Args:
            copies: for each copy, hidden states B×S×d of every batch; overwritten.
            tokens: token ids B×S of every batch.
            on_piece: called with the floating-point operations of every piece of work; may raise to stop.

        Returns:
            For each copy, losses in nats B×(S−1) of every batch, on the host in float64.
        """
        if not tokens:
            return [[] for _ in copies]
        sums = [[_Sums(ids[:, 1:]) for ids in tokens] for _ in copies]
        self._prepare(copies)
        after = self._after if self._is_followed() else None
        for start, stop in self._slices():
            weight = self.rows(start, stop)
            for copy, found in zip(copies, sums, strict=True):
                for states, of_batch in zip(copy, found, strict=True):
                    for piece in self._pieces(states, stop - start):
                        logits = _logits(self._piece(states, piece), weight, after)
                        of_batch.add(logits, logits.logsumexp(-1).cpu(), start, piece)
                        on_piece(2.0 * len(logits) * weight.numel())
            del weight
        return [[of_batch.losses() for of_batch in found] for found in sums]

    @torch.no_grad()
    def compare(
        self,
        dense: list[Tensor],
        pruned: list[Tensor],
        tokens: Sequence[Tensor],
        on_piece: Callable[[float], None] = lambda _: None,
    ) -> list[Compared]:
        """What two models predict at every position, and how far the second is from the first.

        Args:
            dense: hidden states B×S×d of every batch after the last block of one model; overwritten.
            pruned: the same of the other; both have this head.
            tokens: token ids B×S of every batch.
            on_piece: called with the floating-point operations of every piece of work; may raise to stop.
        """
        if not tokens:
            return []
        sums = [_ComparedSums(ids[:, 1:]) for ids in tokens]
        self._prepare([dense, pruned])
        after = self._after if self._is_followed() else None
        for start, stop in self._slices():
            weight = self.rows(start, stop)
            for first, second, of_batch in zip(dense, pruned, sums, strict=True):
                for piece in self._pieces(first, stop - start):
                    logits = _logits(self._piece(first, piece), weight, after)
                    on_piece(2.0 * len(logits) * weight.numel())
                    of_batch.add(logits, _logits(self._piece(second, piece), weight, after), start, piece)
                    on_piece(2.0 * len(logits) * weight.numel())
            del weight
        return [of_batch.compared() for of_batch in sums]

    @torch.no_grad()
    def expected_tokens(self, states: list[Tensor], on_piece: Callable[[float], None] = lambda _: None) -> Tensor:
        """How often each token is expected to come next: the sum of the predictions at all positions.

        Runs over the vocabulary twice, first for the sums that probabilities are relative to.

        Args:
            states: hidden states B×S×d of every batch after the last block; overwritten.
            on_piece: called with the floating-point operations of every piece of work; may raise to stop.

        Returns:
            V numbers in float64, on the host.
        """
        for position, batch in enumerate(states):
            states[position] = self._inputs(batch)
        after = self._after if self._is_followed() else None
        log_sums = [torch.full((batch.numel() // batch.shape[-1],), -torch.inf) for batch in states]
        expected = torch.zeros(self.shape[0], dtype=torch.float64)
        for is_first in (True, False):
            for start, stop in self._slices():
                weight = self.rows(start, stop)
                for batch, log_sum in zip(states, log_sums, strict=True):
                    for piece in self._pieces(batch, stop - start):
                        logits = _logits(self._piece(batch, piece), weight, after)
                        if is_first:
                            log_sum[piece] = torch.logaddexp(log_sum[piece], logits.logsumexp(-1).cpu())
                        else:
                            shares = logits.sub_(log_sum[piece, None].to(logits.device)).exp_()
                            expected[start:stop] += shares.sum(0).double().cpu()
                        on_piece(2.0 * len(logits) * weight.numel())
                del weight
        return expected

    @torch.no_grad()
    def score(
        self,
        copies: list[Tensor],
        positions: Tensor,
        targets: Tensor,
        on_piece: Callable[[float], None] = lambda _: None,
    ) -> list[tuple[Tensor, Tensor]]:
        """What given tokens are predicted with, and whether they are the most probable ones, for several copies.

        Starts with the last rows of the head, which `token_losses` has read last.

        Args:
            copies: for each copy, hidden states N×d after the last block; overwritten.
            positions: for each of M targets, the row of the states that predicts it; ascending.
            targets: token ids M.
            on_piece: called with the floating-point operations of every piece of work; may raise to stop.

        Returns:
            For each copy, log-probabilities M in nats, in float64, and booleans M, on the host.
        """
        after = self._after if self._is_followed() else None
        for copy, states in enumerate(copies):
            copies[copy] = self._inputs(states[None])[0]
        scorers = [_Scorer(inputs, positions, targets) for inputs in copies]
        for start, stop in reversed(list(self._slices())):
            weight = self.rows(start, stop)
            for scorer in scorers:
                for piece in self._pieces(scorer.inputs, stop - start):
                    scorer.see(_logits(scorer.inputs[piece].to(self.device), weight, after), piece, start)
                    on_piece(2.0 * (piece.stop - piece.start) * weight.numel())
            del weight
        return [scorer.found() for scorer in scorers]

    @torch.no_grad()
    def time(self, states: Tensor, operations: float, clock: Callable[[], float]) -> tuple[float, float]:
        """Measure how fast the head is by running a piece of it, if that is a small part of its work.

        Args:
            states: hidden states B×S×d of a batch, for their shape.
            operations: floating-point operations of all the head's work.
            clock: seconds, or seconds of effort, since an arbitrary start.

        Returns:
            Floating-point operations of the trial, and the seconds that it took; zeros if there was none.
        """
        start, stop = next(iter(self._slices()))
        piece = next(iter(self._pieces(states, stop - start)))
        count = piece.stop - piece.start
        tried = 4.0 * count * (stop - start) * states.shape[-1]
        if tried > _TRIED_SHARE * operations:
            return 0.0, 0.0
        weight = self.rows(start, stop)
        # The output of the last block is not known yet. Logits much larger than a trained model's would take longer:
        # their exponentials underflow.
        noise = torch.randn(count, states.shape[-1], generator=torch.Generator().manual_seed(0))
        inputs = (_LOGITS_SPREAD / weight.float().norm(dim=1).mean().cpu() * noise).to(weight)
        seconds = 0.0
        for _ in range(2):  # the first is slower
            self.check()
            sums = _ComparedSums(torch.zeros(1, count, dtype=torch.long))
            began = clock()
            sums.add(_logits(inputs, weight, None), _logits(inputs, weight, None), start, slice(0, count))
            seconds = clock() - began
        return tried, seconds

    def _slices(self) -> Iterator[tuple[int, int]]:
        """Rows [start, stop) of the head that are in memory together."""
        vocabulary, width = self.shape
        rows = max(1, min(vocabulary, HEAD_SLICE_BYTES[self.device.type] // (width * self.dtype.itemsize)))
        for start in range(0, vocabulary, rows):
            yield start, min(start + rows, vocabulary)

    def _pieces(self, states: Tensor, rows: int) -> Iterator[slice]:
        """Tokens of a batch of states whose logits for `rows` rows of the head are computed together."""
        tokens = states.numel() // states.shape[-1]
        by_memory = LOGITS_SLICE_BYTES[self.device.type] // (rows * 4)
        by_work = int(_HEAD_PIECE_OPERATIONS[self.device.type] / (2 * rows * states.shape[-1]))
        step = max(1, min(_MAX_HEAD_TOKENS, by_memory, by_work))
        for begin in range(0, tokens, step):
            yield slice(begin, min(begin + step, tokens))

    def _prepare(self, copies: Sequence[list[Tensor]]) -> None:
        """Replace hidden states by the head's inputs at all positions that another token follows."""
        for copy in copies:
            for position, states in enumerate(copy):
                copy[position] = self._inputs(states[:, :-1])

    def _piece(self, states: Tensor, piece: slice) -> Tensor:
        return states.view(-1, states.shape[-1])[piece].to(self.device)

    def _inputs(self, states: Tensor) -> Tensor:
        """The head's inputs for hidden states B×S×d after the last block; their width may differ from d."""
        parts: list[Tensor] = []

        def record(hidden: Tensor) -> Tensor:
            parts.append(hidden[:, 0])
            return hidden

        for piece in states.reshape(-1, states.shape[-1]).split(_MAX_HEAD_TOKENS):
            self.check()
            self.run(piece.to(self.device), record)
        return self.put_aside(torch.cat(parts).view(*states.shape[:-1], -1))

    def _after(self, logits: Tensor) -> Tensor:
        """Apply what the model does to the logits t×v of its head: scales and soft-caps."""
        hidden = torch.zeros(logits.shape[0], self.hidden, dtype=self.dtype, device=self.device)
        return self.run(hidden, lambda _: logits[:, None])[:, 0]

    def _is_followed(self) -> bool:
        """Whether the model changes its logits; tried with small and large ones."""
        exponents = torch.arange(-6, 7, device=self.device)
        logits = torch.cat([1.25 * 2.0**exponents, -1.25 * 2.0**exponents]).to(self.dtype)[None]
        return not torch.equal(self._after(logits), logits)


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


class _Sums:
    """Sums over the vocabulary for the tokens of a batch, of which slices arrive one after the other.

    Args:
        targets: ids B×S.
    """

    def __init__(self, targets: Tensor) -> None:
        self._shape = targets.shape
        self._targets = targets.reshape(-1)
        self.log_sum = torch.full(self._targets.shape, -torch.inf)
        self._chosen = torch.zeros(self._targets.shape)

    def add(self, logits: Tensor, log_sum: Tensor, start: int, piece: slice) -> None:
        """Add the logits t×v of a piece of the tokens for the vocabulary from `start`, and their log-sum-exp t."""
        self.log_sum[piece] = torch.logaddexp(self.log_sum[piece], log_sum)
        rows = logits.shape[-1]
        local = self._targets[piece] - start
        inside = (local >= 0) & (local < rows)
        picked = logits.gather(-1, local.clamp(0, rows - 1).to(logits.device)[:, None])[:, 0].cpu()
        self._chosen[piece] = torch.where(inside, picked, self._chosen[piece])

    def losses(self) -> Tensor:
        """Cross-entropy of the targets, B×S in float64."""
        return (self.log_sum.double() - self._chosen.double()).view(self._shape)


class _ComparedSums:
    """The sums of two models, with those of one weighted by the predictions of the other; as in `_Sums`."""

    def __init__(self, targets: Tensor) -> None:
        self._shape = targets.shape
        count = targets.numel()
        self._dense, self._pruned = _Sums(targets), _Sums(targets)
        self._difference = torch.zeros(count)  # of the logits, as the dense model expects it
        self._best = torch.full((count,), -torch.inf)  # of the dense model
        self._there = torch.zeros(count)  # the pruned model's logit in the same place
        self._best_pruned = torch.full((count,), -torch.inf)

    def add(self, dense: Tensor, pruned: Tensor, start: int, piece: slice) -> None:
        """Add the logits t×v of both, which are overwritten."""
        peak, place = dense.max(-1)
        odds = (dense - peak[:, None]).exp_()
        mass = odds.sum(-1)
        log_sum, before = (peak + mass.log()).cpu(), self._dense.log_sum[piece].clone()
        self._dense.add(dense, log_sum, start, piece)
        self._pruned.add(pruned, pruned.logsumexp(-1).cpu(), start, piece)
        there = pruned.gather(-1, place[:, None])[:, 0].cpu()
        self._there[piece] = torch.where(peak.cpu() > self._best[piece], there, self._there[piece])
        self._best[piece] = torch.maximum(self._best[piece], peak.cpu())
        self._best_pruned[piece] = torch.maximum(self._best_pruned[piece], pruned.amax(-1).cpu())
        # The mean over all slices is that of each, weighted by its probability.
        after = self._dense.log_sum[piece]
        expected = (odds.mul_(dense.sub_(pruned)).sum(-1) / mass).cpu() * (log_sum - after).exp()
        self._difference[piece] = self._difference[piece] * (before - after).exp() + expected

    def compared(self) -> Compared:
        """The result."""
        divergence = self._difference.double() - self._dense.log_sum.double() + self._pruned.log_sum.double()
        found = divergence.clamp(min=0), self._there == self._best_pruned
        return Compared(self._dense.losses(), self._pruned.losses(), *(each.view(self._shape) for each in found))


class _Scorer:
    """Accumulates what is known of some targets, over slices of the vocabulary that start with its last rows.

    Args:
        inputs: the head's inputs N×d.
        positions: rows of them that predict the targets, M, ascending.
        targets: ids M.
    """

    def __init__(self, inputs: Tensor, positions: Tensor, targets: Tensor) -> None:
        self.inputs = inputs
        self._positions, self._targets = positions, targets
        self._log_sums, self._chosen = torch.full((len(inputs),), -torch.inf), torch.zeros(len(targets))
        self._highest = torch.full((len(inputs),), -torch.inf)
        self._best = torch.zeros(len(inputs), dtype=torch.long)

    def see(self, logits: Tensor, piece: slice, start: int) -> None:
        """Add logits t×v of a piece of the inputs, for the rows of the head from `start` on."""
        self._log_sums[piece] = torch.logaddexp(self._log_sums[piece], logits.logsumexp(-1).cpu())
        values, tokens = (found.cpu() for found in logits.max(-1))
        is_higher = values >= self._highest[piece]  # of equal ones the first, whose rows come last
        self._best[piece] = torch.where(is_higher, start + tokens, self._best[piece])
        self._highest[piece] = torch.where(is_higher, values, self._highest[piece])
        some = slice(*torch.searchsorted(self._positions, torch.tensor([piece.start, piece.stop])).tolist())
        rows, local = self._positions[some] - piece.start, self._targets[some] - start
        inside = (local >= 0) & (local < logits.shape[1])
        at = local.clamp(0, logits.shape[1] - 1)
        picked = logits[rows.to(logits.device), at.to(logits.device)].cpu()
        self._chosen[some] = torch.where(inside, picked, self._chosen[some])

    def found(self) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the targets, in float64, and whether they are the most probable tokens."""
        nats = self._chosen.double() - self._log_sums[self._positions].double()
        return nats, self._best[self._positions] == self._targets


def _logits(inputs: Tensor, weight: Tensor, after: Callable[[Tensor], Tensor] | None) -> Tensor:
    """Logits t×v in float32 for the head's inputs t×d."""
    logits = torch.nn.functional.linear(inputs, weight)
    return (logits if after is None else after(logits)).float()
