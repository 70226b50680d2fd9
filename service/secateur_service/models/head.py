"""What follows the last block of a streamed model: the final norm, the head, and any transform of the logits.

The norm runs on slices of tokens, the head on slices of tokens and of the vocabulary, so that neither the head nor the
logits need fit in memory as a whole. What is made of the logits is a measurement's (`models.measurements`).

Shapes: B sequences, S tokens, d hidden size, V vocabulary; the head may be narrower than the hidden states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur_service.models.budget import HEAD_SLICE_BYTES, LOGITS_SLICE_BYTES
from secateur_service.models.measurements import ComparedSums, Measurement

_MAX_HEAD_TOKENS = {"cpu": 4096, "cuda": 32768}
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
        bias: loads entries [start, stop) of the bias; None for a head without.
        run: logits t×1×v of the model, with hidden states t×d in place of its blocks' output, and with another head.
        put_aside: moves hidden states to where they wait.
        check: called between two pieces of work; raises to stop.
        saves: whether an accelerator's memory is to be saved.
    """

    shape: tuple[int, ...]
    hidden: int
    device: torch.device
    dtype: torch.dtype
    rows: Callable[[int, int], Tensor]
    bias: Callable[[int, int], Tensor] | None
    run: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]
    put_aside: Callable[[Tensor], Tensor]
    check: Callable[[], None]
    saves: Callable[[], bool] = lambda: False

    @torch.no_grad()
    def measure(
        self,
        measurements: Sequence[Measurement],
        on_piece: Callable[[float], None] = lambda _: None,
        *,
        is_read: bool = False,
    ) -> None:
        """Run the norm and the head, slice by slice, on the hidden states of all measurements.

        Every slice of the head is read once, whatever is measured.

        Args:
            measurements: receive the logits; their hidden states are overwritten.
            on_piece: called with the floating-point operations of every piece of work; may raise to stop.
            is_read: whether to read the head even if there is nothing to measure, as others read it together.
        """
        if not is_read and not any(copy for each in measurements for copy in each.copies):
            return
        for each in measurements:
            for copy in each.copies:
                for position, states in enumerate(copy):
                    copy[position] = self._inputs(each.predicting(states))
        after = self._after if self._is_followed() else None
        for start, stop in self._slices():
            weight, bias = self.rows(start, stop), self._bias(start, stop)
            for each in measurements:
                for batch, inputs in enumerate(zip(*each.copies, strict=True)):
                    for piece in self._pieces(inputs[0], stop - start):
                        logits = [_logits(self._piece(copy, piece), weight, bias, after) for copy in inputs]
                        amount = sum(2.0 * len(of_copy) * weight.numel() for of_copy in logits)
                        each.add(batch, logits, start, piece)
                        self._wait()
                        on_piece(amount)
            del weight

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
                weight, bias = self.rows(start, stop), self._bias(start, stop)
                for batch, log_sum in zip(states, log_sums, strict=True):
                    for piece in self._pieces(batch, stop - start):
                        logits = _logits(self._piece(batch, piece), weight, bias, after)
                        if is_first:
                            log_sum[piece] = torch.logaddexp(log_sum[piece], logits.logsumexp(-1).cpu())
                        else:
                            shares = logits.sub_(log_sum[piece, None].to(logits.device)).exp_()
                            expected[start:stop] += shares.sum(0).double().cpu()
                        on_piece(2.0 * len(logits) * weight.numel())
                del weight
        return expected

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
            sums = ComparedSums(torch.zeros(1, count, dtype=torch.long), self.device)
            began = clock()
            sums.add(_logits(inputs, weight, None, None), _logits(inputs, weight, None, None), start, slice(0, count))
            sums.compared()  # waits for the device
            seconds = clock() - began
        return tried, seconds

    def _wait(self) -> None:
        """Wait for the device, so that what is counted as done is done: once for a piece, however much is summed."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _bias(self, start: int, stop: int) -> Tensor | None:
        return self.bias(start, stop) if self.bias is not None else None

    @property
    def _sizes(self) -> str:
        """For which kind of device slices are sized."""
        return "cpu" if self.saves() else self.device.type

    def _slices(self) -> Iterator[tuple[int, int]]:
        """Rows [start, stop) of the head that are in memory together."""
        vocabulary, width = self.shape
        rows = max(1, min(vocabulary, HEAD_SLICE_BYTES[self._sizes] // (width * self.dtype.itemsize)))
        for start in range(0, vocabulary, rows):
            yield start, min(start + rows, vocabulary)

    def _pieces(self, states: Tensor, rows: int) -> Iterator[slice]:
        """Tokens of a batch of states whose logits for `rows` rows of the head are computed together."""
        tokens = states.numel() // states.shape[-1]
        by_memory = LOGITS_SLICE_BYTES[self._sizes] // (rows * 4)
        by_work = int(_HEAD_PIECE_OPERATIONS[self.device.type] / (2 * rows * states.shape[-1]))
        step = max(1, min(_MAX_HEAD_TOKENS[self._sizes], by_memory, by_work))
        for begin in range(0, tokens, step):
            yield slice(begin, min(begin + step, tokens))

    def _piece(self, states: Tensor, piece: slice) -> Tensor:
        return states.view(-1, states.shape[-1])[piece].to(self.device)

    def _inputs(self, states: Tensor) -> Tensor:
        """The head's inputs for hidden states B×S×d after the last block; their width may differ from d."""
        parts: list[Tensor] = []

        def record(hidden: Tensor) -> Tensor:
            parts.append(hidden[:, 0])
            return hidden

        for piece in states.reshape(-1, states.shape[-1]).split(_MAX_HEAD_TOKENS[self._sizes]):
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


def _logits(inputs: Tensor, weight: Tensor, bias: Tensor | None, after: Callable[[Tensor], Tensor] | None) -> Tensor:
    """Logits t×v in float32 for the head's inputs t×d."""
    logits = torch.nn.functional.linear(inputs, weight, bias)
    return (logits if after is None else after(logits)).float()
